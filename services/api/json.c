#include "services/api/json.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

json_t *json_parse(const char *data, size_t len, char *why, size_t size)
{
    json_error_t err;
    json_t *root;

    if (len == 0) {
        snprintf(why, size, "Malformed JSON: the body is empty");
        return NULL;
    }
    root = json_loadb(data, len, JSON_REJECT_DUPLICATES, &err);
    if (!root)
        snprintf(why, size, "Malformed JSON: %s: line %d column %d",
                 json_error_code(&err) == json_error_null_character
                     ? "\\u0000 is not allowed in a string"
                     : err.text,
                 err.line, err.column);
    return root;
}

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

static int wrong_type(const struct json_field *f, const char *want, const json_t *v, char *why,
                      size_t size)
{
    snprintf(why, size, "'%s' must be %s, not %s", f->key, want, type_name(v));
    return -1;
}

static int check_string(const struct json_field *f, size_t max, const json_t *v, char *why,
                        size_t size)
{
    if (!json_is_string(v))
        return wrong_type(f, "a string", v, why, size);
    if (json_string_length(v) > max) {
        snprintf(why, size, "'%s' is too long: %zu bytes, at most %zu", f->key,
                 json_string_length(v), max);
        return -1;
    }
    return 0;
}

static int check_array(const struct json_field *f, const json_t *v, char *why, size_t size)
{
    if (!json_is_array(v))
        return wrong_type(f, "an array", v, why, size);
    if (json_array_size(v) > f->max) {
        snprintf(why, size, "'%s' has too many elements: %zu, at most %zu", f->key,
                 json_array_size(v), f->max);
        return -1;
    }
    return 0;
}

static int decode_strings(const json_t *v, const struct json_field *f, struct json_list *list,
                          char *why, size_t size)
{
    const char **items = xcalloc(json_array_size(v) + 1, sizeof(*items));

    list->items = items;
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *item = json_array_get(v, i);

        if (check_string(f, JSON_LIST_STRING_MAX, item, why, size) < 0)
            return -1;
        items[list->count++] = json_string_value(item);
    }
    return 0;
}

static int decode_objects(const json_t *v, const struct json_field *f, struct json_list *list,
                          char *why, size_t size)
{
    char *items = xcalloc(json_array_size(v) + 1, f->sub_size);

    list->items = items;
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *item = json_array_get(v, i);

        if (!json_is_object(item)) {
            snprintf(why, size, "an element of '%s' must be an object, not %s", f->key,
                     type_name(item));
            return -1;
        }
        if (json_decode(item, f->sub, items + i * f->sub_size, why, size) < 0)
            return -1;
        list->count++;
    }
    return 0;
}

static int check_closed(const struct json_field *f, const json_t *v, char *why, size_t size)
{
    const char *key;
    json_t *member;

    json_object_foreach((json_t *)v, key, member)
    {
        const struct json_field *known = f->sub;

        while (known->key && strcmp(known->key, key) != 0)
            known++;
        if (!known->key) {
            snprintf(why, size, "'%s' has no member '%.60s' here", f->key, key);
            return -1;
        }
    }
    return 0;
}

static int decode_field(const json_t *v, const struct json_field *f, void *at, char *why,
                        size_t size)
{
    switch (f->kind) {
    case JF_STRING:
        if (check_string(f, f->max, v, why, size) < 0)
            return -1;
        *(const char **)at = json_string_value(v);
        return 0;
    case JF_NUMBER:
        if (!json_is_number(v))
            return wrong_type(f, "a number", v, why, size);
        *(double *)at = json_number_value(v);
        return 0;
    case JF_TRUE:
        *(bool *)at = json_is_true(v);
        return 0;
    case JF_STRINGS:
        return check_array(f, v, why, size) < 0 ? -1 : decode_strings(v, f, at, why, size);
    case JF_OBJECTS:
        return check_array(f, v, why, size) < 0 ? -1 : decode_objects(v, f, at, why, size);
    case JF_OBJECT:
        if (!json_is_object(v))
            return wrong_type(f, "an object", v, why, size);
        if ((f->flags & JF_CLOSED) && check_closed(f, v, why, size) < 0)
            return -1;
        return json_decode(v, f->sub, at, why, size);
    }
    return -1;
}

int json_decode(const json_t *object, const struct json_field *fields, void *out, char *why,
                size_t size)
{
    if (!json_is_object(object)) {
        snprintf(why, size, "The body must be a JSON object, not %s", type_name(object));
        return -1;
    }
    for (const struct json_field *f = fields; f->key; f++) {
        const json_t *v = json_object_get(object, f->key);

        if (!v && (f->flags & JF_REQUIRED)) {
            snprintf(why, size, "'%s'", f->key);
            return -1;
        }
        if (!v || (json_is_null(v) && (f->flags & JF_NULL)))
            continue;
        if (decode_field(v, f, (char *)out + f->offset, why, size) < 0)
            return -1;
    }
    return 0;
}
