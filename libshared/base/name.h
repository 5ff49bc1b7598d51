#ifndef MILONGA_NAME_H
#define MILONGA_NAME_H

/* Names from outside are names (invariant 9): UTF-8 without control characters, no '/', not "." or
 * "..", no leading '-', not empty, at most max bytes. Image names may hold '/', ':' and '@' by
 * their own rule. Keys are compared in constant time. */

#include <stdbool.h>
#include <stddef.h>

#define NAME_MAX_FILE   255
#define NAME_MAX_LAB    255
#define NAME_MAX_JOB    512
#define NAME_MAX_IMAGE  255
#define NAME_MAX_LABEL  63
#define NAME_MAX_TENANT 32

/* NULL when it is a good name, else what is wrong with it, as a static phrase ("is empty",
 * "contains a slash", ...) to put behind the name of the field. */
const char *name_check_file(const char *s, size_t len);
const char *name_check_lab(const char *s, size_t len);
/* A display name: any UTF-8 without control characters or '|', 1..NAME_MAX_JOB bytes. */
const char *name_check_job(const char *s, size_t len);
/* [registry[:port]/]path[:tag][@algo:hex], plus '+'; or a plain name such as "rhel.img". */
const char *name_check_image(const char *s, size_t len);
/* [a-z0-9_.=-], no leading '-'. */
const char *name_check_label(const char *s, size_t len);
/* [a-z0-9_], so without '-' (spec/tango 8.4: the key's place in `outputFile`). */
const char *name_check_tenant(const char *s, size_t len);

bool utf8_valid(const char *s, size_t len);

/* Constant time in the length of `b`; false when lengths differ. */
bool key_equal(const char *a, size_t a_len, const char *b, size_t b_len);

#endif
