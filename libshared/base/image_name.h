#ifndef MILONGA_IMAGE_NAME_H
#define MILONGA_IMAGE_NAME_H

/* Whose an image is stands in its full name, which is what Redis, vmms, backends and a job's body
 * have; a tenant says the short one and sees no other:
 *
 *   NAME                                   shared: what operators put on hosts, what admin keys
 * send TENANT.tenant.milonga.invalid/NAME     a tenant's own ('_' of the tenant is a 'U' there)
 *   kept.milonga.invalid/DIGEST            what lost its name to another while jobs wait for it
 *
 * All three are references that an engine takes, and .invalid is in no DNS (RFC 2606): no registry
 * is ever asked for one. A tenant's own goes before a shared one of the same name
 * (libshared/lua/prelude.lua). Nobody may say a name below milonga.invalid. */

#include <stdbool.h>
#include <stddef.h>

/* As name_check_image(), of `len` bytes without a NUL behind them, for names that come from
 * outside: the reserved ones are refused. */
const char *image_name_check(const char *s, size_t len);
bool image_name_is_reserved(const char *name);

/* The full name of a tenant's own; the caller's to free. It may be none (too long, a port or a
 * digest in it): name_check_image() tells. */
char *image_name_own(const char *tenant, const char *name);

/* What a tenant may see of a full name, a place in it: its own without the domain, a shared one as
 * it is; NULL when it is not for that tenant. Without a tenant: for the one whose it is, never
 * NULL. */
const char *image_name_shown(const char *full, const char *tenant);

/* In place, for text that all tenants may read, as an error of a backend's: what is below
 * milonga.invalid becomes "[image]". */
void image_name_hide(char *text);

/* "sha256:ab..." -> "kept.milonga.invalid/sha256-ab..."; the caller's to free. */
char *image_name_kept(const char *digest);
bool image_name_is_kept(const char *name);

#endif
