#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static int saved_stderr = -1;
static int pipe_out = -1;

static void capture(void)
{
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    saved_stderr = dup(STDERR_FILENO);
    dup2(fds[1], STDERR_FILENO);
    close(fds[1]);
    pipe_out = fds[0];
}

/* What was logged since; the caller's to free. */
static char *captured(void)
{
    char *text = xcalloc(1, 1 << 16);
    size_t len = 0;

    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    for (ssize_t n; (n = read(pipe_out, text + len, (1 << 16) - 1 - len)) > 0;)
        len += (size_t)n;
    close(pipe_out);
    return text;
}

static void test_logfmt_line(void **state)
{
    (void)state;
    log_setup("api", LOG_INFO_, 0);
    capture();
    errno = 77;
    log_event(LOG_INFO_, "job.committed", "job", LOG_NUM(7), "why", "a b=\"c\"\n", "none", NULL,
              "path", "/x/y", "city", "Z\xc3\xbcrich", "bad", "\xff.", NULL);
    int kept = errno;
    cleanup_free char *text = captured();
    assert_int_equal(kept, 77);
    /* time=2026-11-24T10:00:00.123Z */
    assert_int_equal(strncmp(text, "time=20", 7), 0);
    assert_int_equal(text[5 + 10], 'T');
    assert_int_equal(text[5 + 19], '.');
    assert_int_equal(text[5 + 23], 'Z');
    assert_string_equal(text + 29,
                        " level=info service=api event=job.committed job=7 "
                        "why=\"a b=\\\"c\\\"\\n\" none=\"\" path=/x/y city=\"Z\xc3\xbcrich\" "
                        "bad=\"\\xff.\"\n");
}

static void test_below_the_level_is_silent(void **state)
{
    (void)state;
    log_setup("api", LOG_WARN_, 0);
    assert_int_equal(log_level_now(), LOG_WARN_);
    capture();
    log_event(LOG_DEBUG_, "a.b", NULL);
    log_event(LOG_INFO_, "a.b", NULL);
    log_event(LOG_ERROR_, "c.d", NULL);
    cleanup_free char *text = captured();
    assert_null(strstr(text, "a.b"));
    assert_non_null(strstr(text, "level=error service=api event=c.d\n"));
}

static void test_json_is_json_whatever_is_in_it(void **state)
{
    char all[256];

    (void)state;
    for (int i = 0; i < 255; i++)
        all[i] = (char)(i + 1);
    all[255] = '\0';
    log_setup("vmm", LOG_DEBUG_, 1);
    capture();
    log_event(LOG_WARN_, "x.y", "all", all, "n", LOG_NUM(-5), NULL);
    cleanup_free char *text = captured();
    json_error_t error;
    json_t *root = json_loads(text, 0, &error);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "level")), "warn");
    assert_string_equal(json_string_value(json_object_get(root, "service")), "vmm");
    assert_string_equal(json_string_value(json_object_get(root, "n")), "-5");
    assert_int_equal(strncmp(json_string_value(json_object_get(root, "all")), all, 0x7f), 0);
    json_decref(root);
}

static void test_values_are_cut_between_characters(void **state)
{
    char text[1200];

    (void)state;
    for (int json = 0; json < 2; json++)
        for (size_t shift = 0; shift < 3; shift++) {
            memset(text, 'a', shift);
            for (size_t i = shift; i + 4 < sizeof(text); i += 3)
                memcpy(text + i, "\xe2\x82\xac", 4);
            log_setup("api", LOG_INFO_, json);
            capture();
            log_event(LOG_INFO_, "x.y", "v", text, NULL);
            cleanup_free char *line = captured();
            assert_null(strstr(line, "\\x"));
            assert_null(strstr(line, "fffd"));
            assert_true(strlen(line) > 500 && strlen(line) < 650);
        }
}

static void test_a_line_fits_a_pipe_and_says_that_it_was_cut(void **state)
{
    char text[600];

    (void)state;
    memset(text, '"', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (int json = 0; json < 2; json++) {
        log_setup("api", LOG_INFO_, json);
        capture();
        log_event(LOG_INFO_, "x.y", "a", text, "b", text, "c", text, "d", text, "e", text, NULL);
        cleanup_free char *line = captured();
        assert_true(strlen(line) <= 4096);
        assert_non_null(strstr(line, json ? "\"cut\": \"yes\"}\n" : " cut=yes\n"));
        assert_non_null(strstr(line, json ? "\"c\": " : " c="));
        assert_null(strstr(line, json ? "\"e\": " : " e="));
        if (json) {
            json_t *root = json_loads(line, 0, NULL);
            assert_non_null(root);
            json_decref(root);
        }
    }
}

static void *shout(void *arg)
{
    for (int i = 0; i < 100; i++)
        log_event(LOG_INFO_, "thread.spoke", "who", (const char *)arg, "i", LOG_NUM(i), NULL);
    return NULL;
}

static void test_lines_of_threads_stay_whole(void **state)
{
    static char first[] = "first", second[] = "second";
    pthread_t a, b;
    int ct = 0;

    (void)state;
    log_setup("api", LOG_INFO_, 0);
    capture();
    pthread_create(&a, NULL, shout, first);
    pthread_create(&b, NULL, shout, second);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    cleanup_free char *text = captured();
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), ct++) {
        assert_int_equal(strncmp(line, "time=", 5), 0);
        assert_null(strstr(line + 1, "time="));
        assert_non_null(strstr(line, " i="));
    }
    assert_int_equal(ct, 200);
}

static void test_numbers_of_one_call_do_not_overwrite_each_other(void **state)
{
    const char *n[16];

    (void)state;
    for (int i = 0; i < 16; i++)
        n[i] = LOG_NUM(i);
    for (int i = 0; i < 16; i++)
        assert_int_equal(atoi(n[i]), i);
    assert_string_equal(log_num(-9223372036854775807LL - 1), "-9223372036854775808");
}

static void test_level_names(void **state)
{
    enum log_level level = LOG_ERROR_;

    (void)state;
    assert_int_equal(log_level_parse("DeBuG", &level), 0);
    assert_int_equal(level, LOG_DEBUG_);
    assert_int_equal(log_level_parse("warn", &level), 0);
    assert_int_equal(level, LOG_WARN_);
    assert_int_equal(log_level_parse("loud", &level), -EINVAL);
    assert_int_equal(level, LOG_WARN_);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logfmt_line),
        cmocka_unit_test(test_below_the_level_is_silent),
        cmocka_unit_test(test_json_is_json_whatever_is_in_it),
        cmocka_unit_test(test_values_are_cut_between_characters),
        cmocka_unit_test(test_a_line_fits_a_pipe_and_says_that_it_was_cut),
        cmocka_unit_test(test_lines_of_threads_stay_whole),
        cmocka_unit_test(test_numbers_of_one_call_do_not_overwrite_each_other),
        cmocka_unit_test(test_level_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
