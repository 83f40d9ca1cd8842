"""Checks the mock itself: python3 test/mock/selfcheck.py [-v] [Class.test]

Starts servers of its own on free ports and ends them.
"""

import unittest

from check_dingtalk import DingTalk
from check_entra import Entra
from check_faults import Faults, Process
from check_feishu import Feishu
from check_google import Google
from check_keycloak import Keycloak
from check_ldap import Ber, Client, Plain
from check_okta import Okta
from check_rest import Rest
from check_scim import Scim
from check_service import Control, Generator, Ids, Reading, Tokens

__all__ = ["Ber", "Client", "Control", "DingTalk", "Entra", "Faults", "Feishu", "Generator",
           "Google", "Ids", "Keycloak", "Okta", "Plain", "Process",
           "Rest", "Reading", "Scim", "Tokens"]

if __name__ == "__main__":
    unittest.main()
