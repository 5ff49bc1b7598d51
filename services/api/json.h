#ifndef MILONGA_API_JSON_H
#define MILONGA_API_JSON_H

/* Requests in JSON, decoded by tables of fields over jansson. The rules, for every request
 * (docs/tango.md):
 *
 * - one object, UTF-8, nothing behind it but white space; an object with the same key twice is
 * refused;
 * - integers beyond 64 bits and reals beyond a double are refused; no \u0000 in strings;
 * - keys that the table does not name are skipped, so that newer and older clients may send more,
 *   but in an object that is closed (JF_CLOSED);
 * - fields are looked at in the order of the table: the first that is missing or of the wrong type
 * is told;
 * - strings are at most `max` bytes, arrays at most `max` elements. */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#define JSON_LIST_STRING_MAX 4096

enum json_field_kind {
    JF_STRING, /* const char *, owned by the json_t */
    JF_NUMBER, /* double; an integer over 2^53 is rounded, far above any bound */
    JF_TRUE, /* bool: true only when it is the JSON true; any other value is false, as with Tango */
    JF_STRINGS, /* struct json_list of const char * */
    JF_OBJECTS, /* struct json_list of structs, by the table `sub` */
    JF_OBJECT,  /* a struct inside, by the table `sub` */
};

enum json_field_flag {
    JF_REQUIRED = 1, /* missing: the text is the key in single quotes, as Python's KeyError */
    JF_NULL = 2,     /* null is as if it were absent (but present, if required) */
    JF_CLOSED = 4,   /* JF_OBJECT: a key that `sub` does not name is refused, not skipped */
};

struct json_list {
    void *items; /* the caller's to free() */
    size_t count;
};

struct json_field {
    const char *key;
    enum json_field_kind kind;
    unsigned flags;
    size_t offset;
    size_t max;                   /* bytes of a string, elements of an array; strings in an array:
                                     JSON_LIST_STRING_MAX */
    const struct json_field *sub; /* ended by key NULL */
    size_t sub_size;              /* JF_OBJECTS: sizeof one */
};

/* Parses. NULL with a sentence in why[size] when the bytes are not JSON by the rules above. */
json_t *json_parse(const char *data, size_t len, char *why, size_t size);

/* Fills *out, which was zeroed, by the table; absent fields are untouched. 0, or -1 with a sentence
 * in why[size]; lists that were filled by then are still the caller's to free. */
int json_decode(const json_t *object, const struct json_field *fields, void *out, char *why,
                size_t size);

#endif
