/*-------------------------------------------------------------------------
 *
 * dn.h
 *		Distinguished names (RFC 4514), in a form that can be compared.
 *
 * Pure C: compiles with FRONTEND for unit tests and fuzzing.  Any process,
 * no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_FETCH_DN_H
#define UDS_FETCH_DN_H

extern char *uds_dn_normalize(const char *dn, size_t len);
extern int	uds_dn_first(const char *dn, size_t len);
extern const char *uds_dn_parent(const char *normal);
extern bool uds_dn_below(const char *normal, const char *base);
extern char *uds_dn_value(const char *bytes, size_t len);
extern bool uds_dn_in_rdn(const char *normal, const char *attribute,
						  const char *bytes, size_t len);

#endif							/* UDS_FETCH_DN_H */
