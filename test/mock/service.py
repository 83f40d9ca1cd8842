"""What a simulated service is to the rest of the mock.

A service owns its address prefix, its wire format, its credentials and its
tokens.  The directory belongs to the mock and is read through self.mock.
"""

import calendar
import time


def seconds(text):
    """Of a time like 2026-01-31T10:00:00Z, maybe with a fraction."""
    return calendar.timegm(time.strptime(text.split(".")[0].rstrip("Z"),
                                         "%Y-%m-%dT%H:%M:%S"))


class Service:
    name = ""
    prefix = ""
    defaults = {}

    def __init__(self, mock):
        self.mock = mock
        self.reset()

    @property
    def directory(self):
        return self.mock.directory

    def reset(self):
        """Back to the state at the start."""
        self.settings = dict(self.defaults)

    def configure(self, changes):
        unknown = sorted(set(changes) - set(self.defaults))
        if unknown:
            raise ValueError("%s has no setting %s"
                             % (self.name, ", ".join(unknown)))
        self.settings.update(changes)

    def handle(self, request, path):
        """The normal Reply; path is without the prefix."""
        raise NotImplementedError

    def error(self, request, what, message=None):
        """A failure in the service's own form.

        what is a code or one of the names "busy", "throttle", "overlap" and
        "address", which every service words in its own way.
        """
        raise NotImplementedError

    def expire_tokens(self):
        raise NotImplementedError

    def bend_cursor(self, request, document, circle):
        """Make the next cursor lead back to this page (circle is None), on for
        ever (0), or round a circle of that many pages."""

    def records_key(self, document):
        """The key of a page's list of records, None if it has none."""
        raise NotImplementedError
