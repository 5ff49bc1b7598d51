#include "services/api/json.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

struct pair {
    const char *a;
    double n;
};

struct thing {
    const char *name;
    double number;
    bool flag;
    struct json_list words, pairs;
    struct pair inside;
};

static const struct json_field pair_fields[] = {
    {"a", JF_STRING, JF_REQUIRED, offsetof(struct pair, a), 4},
    {"n", JF_NUMBER, 0, offsetof(struct pair, n)},
    {NULL},
};
static const struct json_field fields[] = {
    {"name", JF_STRING, JF_REQUIRED | JF_NULL, offsetof(struct thing, name), 8},
    {"number", JF_NUMBER, JF_NULL, offsetof(struct thing, number)},
    {"flag", JF_TRUE, 0, offsetof(struct thing, flag)},
    {"words", JF_STRINGS, 0, offsetof(struct thing, words), 3},
    {"pairs", JF_OBJECTS, 0, offsetof(struct thing, pairs), 2, pair_fields, sizeof(struct pair)},
    {"inside", JF_OBJECT, JF_NULL, offsetof(struct thing, inside), 0, pair_fields},
    {NULL},
};

static char why[200];

/* NULL, or the sentence */
static const char *decode(const char *text, struct thing *out, json_t **ret_json)
{
    json_t *json = json_parse(text, strlen(text), why, sizeof(why));
    int r = -1;

    memset(out, 0, sizeof(*out));
    if (json)
        r = json_decode(json, fields, out, why, sizeof(why));
    *ret_json = json;
    return r == 0 ? NULL : why;
}

static void wrong(const char *text, const char *want)
{
    struct thing t;
    json_t *json;
    const char *got = decode(text, &t, &json);

    if (!got || !strstr(got, want))
        fail_msg("%s: \"%s\" instead of \"%s\"", text, got ? got : "no error", want);
    free(t.words.items);
    free(t.pairs.items);
    json_decref(json);
}

static void test_all_kinds(void **state)
{
    struct thing t;
    json_t *json;

    (void)state;
    assert_null(
        decode("{\"name\": \"x\", \"number\": 2.5, \"flag\": true, \"words\": [\"p\", \"q\"],"
               "\"pairs\": [{\"a\": \"1\", \"n\": 7}, {\"a\": \"2\"}], \"inside\": {\"a\": \"z\"},"
               "\"unknown\": {\"deep\": []}} \n",
               &t, &json));
    assert_string_equal(t.name, "x");
    assert_true(t.number == 2.5);
    assert_true(t.flag);
    assert_int_equal(t.words.count, 2);
    assert_string_equal(((const char **)t.words.items)[1], "q");
    assert_int_equal(t.pairs.count, 2);
    assert_true(((struct pair *)t.pairs.items)[0].n == 7);
    assert_string_equal(((struct pair *)t.pairs.items)[1].a, "2");
    assert_string_equal(t.inside.a, "z");
    free(t.words.items);
    free(t.pairs.items);
    json_decref(json);
}

static void test_null_and_absent(void **state)
{
    struct thing t;
    json_t *json;

    (void)state;
    assert_null(
        decode("{\"name\": null, \"number\": null, \"flag\": 1, \"inside\": null}", &t, &json));
    assert_null(t.name);
    assert_false(t.flag);
    json_decref(json);
    wrong("{}", "'name'");
    wrong("{\"name\": \"x\", \"words\": null}", "'words' must be an array, not null");
}

static void test_wrong_kinds(void **state)
{
    (void)state;
    wrong("{\"name\": 1}", "'name' must be a string, not a number");
    wrong("{\"name\": \"123456789\"}", "'name' is too long: 9 bytes, at most 8");
    wrong("{\"name\": \"x\", \"number\": \"5\"}", "'number' must be a number, not a string");
    wrong("{\"name\": \"x\", \"number\": true}", "'number' must be a number, not a boolean");
    wrong("{\"name\": \"x\", \"words\": [1]}", "must be a string");
    wrong("{\"name\": \"x\", \"words\": [\"\",\"\",\"\",\"\"]}", "too many elements: 4, at most 3");
    wrong("{\"name\": \"x\", \"pairs\": [{\"a\": \"1\"}, 5]}", "an element of 'pairs'");
    wrong("{\"name\": \"x\", \"pairs\": [{}]}", "'a'");
    wrong("[]", "must be a JSON object, not an array");
}

static void test_not_json(void **state)
{
    char *deep = malloc(1000001);

    (void)state;
    wrong("", "Malformed JSON: the body is empty");
    wrong("{", "Malformed JSON");
    wrong("{}{}", "Malformed JSON: end of file expected");
    wrong("{\"a\": 1, \"a\": 2}", "duplicate object key");
    wrong("{\"name\": \"x\", \"inside\": {\"b\": 1, \"b\": 1}}", "duplicate object key");
    wrong("{\"n\": 123456789012345678901234567890}", "too big integer");
    wrong("{\"n\": 1e999}", "real number overflow");
    wrong("{\"n\": \"\\u0000\"}", "\\u0000 is not allowed");
    wrong("{\"n\": \"\xff\"}", "unable to decode byte 0xff");
    memset(deep, '[', 1000000);
    deep[1000000] = '\0';
    wrong(deep, "maximum parsing depth");
    free(deep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_kinds),
        cmocka_unit_test(test_null_and_absent),
        cmocka_unit_test(test_wrong_kinds),
        cmocka_unit_test(test_not_json),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
