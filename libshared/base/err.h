#ifndef MILONGA_ERR_H
#define MILONGA_ERR_H

/* Errors: the one idiom of the whole project.
 *
 * A function that can fail returns 0, or a negative errno-like code, and takes a trailing
 * `struct error *err` that may be NULL. Success leaves *err untouched; failure fills it. Callers
 * add context outward with err_wrap(), so that a message reads "outer: inner". Outputs are
 * untouched on failure. A library function returns an error or handles it; it never logs one and
 * returns it too.
 *
 * The class, not the text, drives policy: what is TEMPORARY is tried again, what is PERMANENT is
 * not, REFUSED is the caller's fault and is told to the caller, BUG is ours.
 *
 * Out of memory aborts (see mem.h): memory is bounded by admission limits instead. */

enum err_class {
    ERR_NONE = 0,
    ERR_TEMPORARY,
    ERR_PERMANENT,
    ERR_REFUSED,
    ERR_BUG,
};

struct error {
    int code; /* positive errno value */
    enum err_class class;
    char msg[480]; /* UTF-8, no newline; names the thing, the value and the remedy */
};

#define ERROR_INIT                                                                                 \
    {                                                                                              \
        0                                                                                          \
    }

/* Fills *err and returns -code, so that `return err_set(err, ...)` is the whole failure path. */
int err_set(struct error *err, enum err_class class, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* As err_set, and appends ": " and strerror(code). */
int err_set_errno(struct error *err, enum err_class class, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts "<text>: " before the message that is there. Returns -err->code (-EIO when err is NULL). */
int err_wrap(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* "temporary", "permanent", "refused", "bug" or "none"; static storage. */
const char *err_class_name(enum err_class class);

#endif
