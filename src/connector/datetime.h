/*-------------------------------------------------------------------------
 *
 * datetime.h
 *		Times as services write them, made one form of.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_DATETIME_H
#define UDS_CONNECTOR_DATETIME_H

typedef enum UdsDateForm
{
	UDS_DATE_ISO,				/* 2026-01-31T10:00:00+08:00 */
	UDS_DATE_EPOCH,				/* seconds since 1970 */
	UDS_DATE_EPOCH_MS			/* milliseconds */
} UdsDateForm;

extern int64 uds_datetime_days(int year, int month, int day);
extern char *uds_datetime_normalize(const char *text, UdsDateForm form);

#endif							/* UDS_CONNECTOR_DATETIME_H */
