/*-------------------------------------------------------------------------
 *
 * xml.c
 *		The XML of WeCom's events, as a JSON object.
 *
 * The elements right below the root become members, with their text; of
 * elements below these nothing is taken.  A document type is refused, and with
 * it all entities.  Parsing is expat's.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 * Nothing here raises an error but out of memory.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include <cJSON.h>
#include <expat.h>
#include <limits.h>

#include "listen/envelope.h"

/* levels and elements that no event has */
#define MAX_DEPTH 32
#define MAX_MEMBERS 200

typedef struct Reading
{
	XML_Parser	parser;
	cJSON	   *object;
	int			depth;
	bool		failed;
	char	   *name;			/* of the member that is open, malloc'ed */
	char	   *text;			/* of it so far */
	size_t		len;
	bool		nested;			/* it has elements below it */
} Reading;

static void
stop(Reading *reading)
{
	reading->failed = true;
	XML_StopParser(reading->parser, XML_FALSE);
}

static void
begin_element(void *arg, const char *name, const char **attributes)
{
	Reading    *reading = arg;

	if (++reading->depth > MAX_DEPTH)
		stop(reading);
	else if (reading->depth == 2)
	{
		reading->name = strdup(name);
		reading->text = NULL;
		reading->len = 0;
		reading->nested = false;
		if (reading->name == NULL)
			stop(reading);
	}
	else if (reading->depth > 2)
		reading->nested = true;
}

static void
end_element(void *arg, const char *name)
{
	Reading    *reading = arg;

	if (reading->depth-- != 2)
		return;
	if (!reading->nested &&
		cJSON_GetObjectItemCaseSensitive(reading->object, reading->name) == NULL)
	{
		if (cJSON_GetArraySize(reading->object) >= MAX_MEMBERS ||
			cJSON_AddStringToObject(reading->object, reading->name,
									reading->text ? reading->text : "") == NULL)
			stop(reading);
	}
	free(reading->name);
	free(reading->text);
	reading->name = reading->text = NULL;
}

static void
add_text(void *arg, const char *text, int len)
{
	Reading    *reading = arg;
	char	   *longer;

	if (reading->depth != 2)
		return;
	longer = realloc(reading->text, reading->len + len + 1);
	if (longer == NULL)
	{
		stop(reading);
		return;
	}
	memcpy(longer + reading->len, text, len);
	reading->len += len;
	longer[reading->len] = '\0';
	reading->text = longer;
}

static void
refuse_doctype(void *arg, const char *name, const char *system, const char *public, int has_subset)
{
	stop(arg);
}

/*
 * Returns a JSON object, palloc'd, or NULL and what is wrong in *problem.
 */
char *
uds_xml_to_json(const char *xml, size_t len, const char **problem)
{
	Reading		reading = {0};
	char	   *printed = NULL;
	char	   *result = NULL;

	*problem = "it is not the XML of an event";
	if (len > INT_MAX)
		return NULL;
	reading.parser = XML_ParserCreate("UTF-8");
	reading.object = cJSON_CreateObject();
	if (reading.parser != NULL && reading.object != NULL)
	{
		XML_SetUserData(reading.parser, &reading);
		XML_SetElementHandler(reading.parser, begin_element, end_element);
		XML_SetCharacterDataHandler(reading.parser, add_text);
		XML_SetStartDoctypeDeclHandler(reading.parser, refuse_doctype);
		if (XML_Parse(reading.parser, xml, (int) len, 1) == XML_STATUS_OK && !reading.failed)
			printed = cJSON_PrintUnformatted(reading.object);
	}
	if (reading.parser != NULL)
		XML_ParserFree(reading.parser);
	cJSON_Delete(reading.object);
	free(reading.name);
	free(reading.text);
	if (printed != NULL)
	{
		result = pstrdup(printed);
		free(printed);
		*problem = NULL;
	}
	return result;
}
