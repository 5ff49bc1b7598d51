/* The client's pieces that need no server. */

#include "client/client.h"
#include "client/sse.h"
#include "client/table.h"

#include "base/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ---- sse ---- */

struct seen {
    char text[4096];
    int stop_at; /* the event that ends it; 0: none does */
    int count;
};

static int note(void *arg, const char *event, const char *data)
{
    struct seen *s = arg;
    size_t len = strlen(s->text);

    snprintf(s->text + len, sizeof(s->text) - len, "[%s|%s]", event, data);
    return ++s->count == s->stop_at ? 7 : 0;
}

static const char stream[] =
    ": hello\n\nevent: output\nid: 1-2\ndata: aGk=\n\ndata:one\r\ndata: two\r\n\r\n"
    "event: end\rdata\r\rretry: 5\nevent: none\n\ndata: cut";

static void test_sse_whatever_the_pieces(void **state)
{
    (void)state;
    for (size_t piece = 1; piece < sizeof(stream); piece++) {
        struct seen seen = {""};
        struct sse sse;

        sse_init(&sse);
        for (size_t at = 0; at < sizeof(stream) - 1; at += piece) {
            size_t len = sizeof(stream) - 1 - at < piece ? sizeof(stream) - 1 - at : piece;

            assert_int_equal(sse_feed(&sse, stream + at, len, note, &seen), 0);
        }
        assert_string_equal(seen.text, "[output|aGk=][message|one\ntwo][end|]");
        assert_string_equal(sse.id, "1-2");
        sse_done(&sse);
    }
}

static int feed(struct sse *sse, const char *text, struct seen *seen)
{
    return sse_feed(sse, text, strlen(text), note, seen);
}

static void test_sse_restart_forgets_half_an_event(void **state)
{
    struct seen seen = {""};
    struct sse sse;

    (void)state;
    sse_init(&sse);
    feed(&sse, "id: a\ndata: 1\n\nid: b\ndata: 2\n", &seen);
    sse_restart(&sse);
    feed(&sse, "data: 3\n\n", &seen);
    assert_string_equal(seen.text, "[message|1][message|3]");
    sse_done(&sse);
}

static void test_sse_stops_when_told(void **state)
{
    struct seen seen = {.stop_at = 1};
    struct sse sse;

    (void)state;
    sse_init(&sse);
    assert_int_equal(feed(&sse, "data: 1\n\ndata: 2\n\n", &seen), 7);
    assert_string_equal(seen.text, "[message|1]");
    sse_done(&sse);
}

static void test_sse_is_bounded(void **state)
{
    cleanup_free char *block = xmalloc(SSE_LINE_MAX);
    struct seen seen = {""};
    struct sse sse;

    (void)state;
    memset(block, 'x', SSE_LINE_MAX);
    sse_init(&sse);
    feed(&sse, "data: ", &seen);
    assert_int_equal(sse_feed(&sse, block, SSE_LINE_MAX, note, &seen), -EMSGSIZE);
    sse_done(&sse);
}

/* ---- table ---- */

static char *printed(const struct table *t, unsigned width)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    table_print(t, out, width, "no rows");
    fclose(out);
    return text;
}

static void test_table_aligns_cuts_and_disarms(void **state)
{
    struct table *t = table_new(">N NAME LAST");
    cleanup_free char *wide = NULL, *narrow = NULL;

    (void)state;
    for (int i = 1; i <= 10; i += 9) {
        table_cell(t, "%d", i);
        table_cell(t, "%s", i == 1 ? "\xc3\xa4" : "b\033[2J");
        table_cell(t, "%s", "0123456789");
    }
    wide = printed(t, 0);
    narrow = printed(t, 15);
    assert_string_equal(wide,
                        " N  NAME   LAST\n 1  \xc3\xa4      0123456789\n10  b?[2J  0123456789\n");
    assert_string_equal(narrow, " N  NAME   LAST\n 1  \xc3\xa4      0123\n10  b?[2J  0123\n");
    table_free(t);
}

static void test_table_without_rows(void **state)
{
    struct table *t = table_new("A B");
    cleanup_free char *text = printed(t, 0);

    (void)state;
    assert_string_equal(text, "no rows\n");
    table_free(t);
}

static void test_human(void **state)
{
    char buf[HUMAN_MAX];

    (void)state;
    assert_string_equal(human_ms(999, buf), "999 ms");
    assert_string_equal(human_ms(1000, buf), "1.0 s");
    assert_string_equal(human_ms(9999, buf), "9.9 s");
    assert_string_equal(human_ms(119999, buf), "119 s");
    assert_string_equal(human_ms(7199999, buf), "119 min");
    assert_string_equal(human_ms(172799999, buf), "47 h");
    assert_string_equal(human_ms(172800000, buf), "2 d");
    assert_string_equal(human_bytes(999, buf), "999 B");
    assert_string_equal(human_bytes(1500000, buf), "1.5 MB");
    assert_string_equal(human_ago(0, buf), "-");
}

/* ---- arguments ---- */

static void test_args(void **state)
{
    const char *image = NULL;
    bool follow = false;
    const struct arg args[] = {{"--image", &image, NULL}, {"-f", NULL, &follow}};
    char *one[] = {(char *)"dir", (char *)"--image", (char *)"a", (char *)"-f",
                   (char *)"--",  (char *)"-x",      NULL};
    char *two[] = {(char *)"--image=b", NULL};
    char *bad[] = {(char *)"--imag", (char *)"a", NULL};
    char *no_value[] = {(char *)"--image", NULL};
    char *flag_value[] = {(char *)"-f=1", NULL};

    (void)state;
    assert_int_equal(args_take(6, one, args, 2), 2);
    assert_string_equal(one[0], "dir");
    assert_string_equal(one[1], "-x");
    assert_string_equal(image, "a");
    assert_true(follow);
    assert_int_equal(args_take(1, two, args, 2), 0);
    assert_string_equal(image, "b");
    assert_true(args_take(2, bad, args, 2) < 0);
    assert_true(args_take(1, no_value, args, 2) < 0);
    assert_true(args_take(1, flag_value, args, 2) < 0);
}

static void test_numbers(void **state)
{
    struct error err = ERROR_INIT;
    long n = 0;

    (void)state;
    assert_int_equal(args_number("n", "10", 1, 10, &n, &err), 0);
    assert_int_equal(n, 10);
    assert_true(args_number("n", "11", 1, 10, &n, &err) < 0);
    assert_true(args_number("n", "", 1, 10, &n, &err) < 0);
    assert_true(args_number("n", "1x", 1, 10, &n, &err) < 0);
    assert_true(args_number("n", "99999999999999999999", 1, 10, &n, &err) < 0);
    assert_string_equal(err.msg, "n \"99999999999999999999\" is not a number from 1 to 10");
}

static void test_exit_status(void **state)
{
    (void)state;
    assert_int_equal(job_exit_status("success", "x\n---\nAutodriver: Job exited with status 0\nhi"),
                     0);
    assert_int_equal(job_exit_status("success", "x\n---\nAutodriver: Job exited with status 139\n"),
                     139);
    assert_int_equal(job_exit_status("success", "Autodriver: Job exited with status 3\n"), 0);
    assert_int_equal(job_exit_status("failed", "x\n---\nAutodriver: Job exited with status 0\n"),
                     1);
    assert_int_equal(job_exit_status("timed_out", ""), 124);
    assert_int_equal(job_exit_status("memory", ""), 137);
    assert_int_equal(job_exit_status("cancelled", ""), 130);
    assert_int_equal(job_exit_status("infrastructure", ""), 75);
    assert_int_equal(job_exit_status("rejected", ""), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sse_whatever_the_pieces),
        cmocka_unit_test(test_sse_restart_forgets_half_an_event),
        cmocka_unit_test(test_sse_stops_when_told),
        cmocka_unit_test(test_sse_is_bounded),
        cmocka_unit_test(test_table_aligns_cuts_and_disarms),
        cmocka_unit_test(test_table_without_rows),
        cmocka_unit_test(test_human),
        cmocka_unit_test(test_args),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_exit_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
