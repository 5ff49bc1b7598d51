#include "wire/job.h"

#include "base/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define SHA "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static struct job *job_make(void)
{
    struct job *job = job_new();

    job->tenant = xstrdup("main");
    job->lab = xstrdup("15213-f26");
    job->name = xstrdup("malloc_42 \xc3\xa9");
    job->output_file = xstrdup("out.txt");
    job->image = xstrdup("autograding_image:latest");
    job->callback_url = xstrdup("https://example.org/cb");
    job->digests[job->digest_ct++] = xstrdup("sha256:aa");
    job->digests[job->digest_ct++] = xstrdup("sha256:bb");
    job->labels[job->label_ct++] = xstrdup("gpu");
    job->file_ct = 2;
    job->files = xcalloc(2, sizeof(*job->files));
    job->files[0] = (struct job_file){xstrdup("a.tar"), xstrdup("b.tar"), SHA, 1ULL << 40};
    job->files[1] = (struct job_file){xstrdup("Makefile"), xstrdup("Makefile"), "", 0};
    job->limits =
        (struct job_limits){.cores_milli = 1500, .memory_mb = 512, .disk_bytes = 1LL << 33};
    job->timeout_s = 90;
    job->network = true;
    job->class = 0;
    job->accepted_ms = 1790000000123;
    return job;
}

static void what_is_written_is_read(void **state)
{
    cleanup_job struct job *job = job_make(), *back = NULL;
    cleanup_buf struct buf b = BUF_INIT(JOB_BODY_MAX);
    struct error err = ERROR_INIT;

    (void)state;
    assert_int_equal(job_encode(job, &b), 0);
    assert_int_equal(job_decode(b.data, b.len, &back, &err), 0);
    assert_string_equal(back->tenant, job->tenant);
    assert_string_equal(back->lab, job->lab);
    assert_string_equal(back->name, job->name);
    assert_string_equal(back->output_file, job->output_file);
    assert_string_equal(back->image, job->image);
    assert_string_equal(back->callback_url, job->callback_url);
    assert_int_equal(back->digest_ct, 2);
    assert_string_equal(back->digests[1], "sha256:bb");
    assert_int_equal(back->label_ct, 1);
    assert_string_equal(back->labels[0], "gpu");
    assert_int_equal(back->file_ct, 2);
    assert_string_equal(back->files[0].local, "a.tar");
    assert_string_equal(back->files[0].dest, "b.tar");
    assert_string_equal(back->files[0].sha256, SHA);
    assert_true(back->files[0].size == 1ULL << 40);
    assert_string_equal(back->files[1].sha256, "");
    assert_memory_equal(&back->limits, &job->limits, sizeof(job->limits));
    assert_int_equal(back->timeout_s, 90);
    assert_true(back->network);
    assert_int_equal(back->class, 0);
    assert_true(back->accepted_ms == job->accepted_ms);
}

static void an_empty_job_is_one(void **state)
{
    cleanup_job struct job *job = job_new(), *back = NULL, *least = NULL;
    cleanup_buf struct buf b = BUF_INIT(JOB_BODY_MAX);

    (void)state;
    assert_int_equal(job_encode(job, &b), 0);
    assert_int_equal(job_decode(b.data, b.len, &back, NULL), 0);
    assert_string_equal(back->tenant, "");
    assert_null(back->callback_url);
    assert_int_equal(back->class, JOB_CLASS_DEFAULT);
    assert_int_equal(job_decode("\x81\x00\x01", 3, &least, NULL), 0);
    assert_string_equal(least->image, "");
    assert_int_equal(least->class, JOB_CLASS_DEFAULT);
}

static void every_cut_is_refused(void **state)
{
    cleanup_job struct job *job = job_make();
    cleanup_buf struct buf b = BUF_INIT(JOB_BODY_MAX);
    struct job *back = NULL;

    (void)state;
    assert_int_equal(job_encode(job, &b), 0);
    for (size_t len = 0; len < b.len; len++) {
        cleanup_free char *exact = xmemdup(b.data, len ? len : 1);
        struct error err = ERROR_INIT;

        assert_int_equal(job_decode(exact, len, &back, &err), -EPROTO);
        assert_int_equal(err.class, ERR_PERMANENT);
    }
    assert_int_equal(buf_append(&b, "\x00", 1), 0);
    assert_int_equal(job_decode(b.data, b.len, &back, NULL), -EPROTO);
    assert_null(back);
}

#define REFUSED(bytes) assert_int_equal(job_decode(bytes, sizeof(bytes) - 1, &back, &err), -EPROTO)

static void wrong_bodies_are_refused(void **state)
{
    struct error err = ERROR_INIT;
    struct job *back = NULL;

    (void)state;
    REFUSED("\x80");                                            /* no version */
    REFUSED("\x81\x00\xa1x");                                   /* version of another kind */
    REFUSED("\x82\x00\x01\x01\x05");                            /* tenant is a number */
    REFUSED("\x82\x00\x01\x01\xa2x\x00");                       /* a NUL in a name */
    REFUSED("\x83\x00\x01\x01\xa1x\x01\xa1y");                  /* a key twice */
    REFUSED("\x82\x00\x01\x0d\xcd\x01\x00");                    /* class 256 */
    REFUSED("\x82\x00\x01\x07\x91\x94\xa1x\xa1x\xc4\x01y\x01"); /* digest of one byte */
    REFUSED("\x82\x00\x01\x07\x91\x93\xa1x\xa1x\xc4\x00");      /* three elements */
    REFUSED("\x82\x00\x01\x06\x99\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0"); /* nine digests */
    REFUSED("\x82\x01\xa1x\x00\x02");
    assert_non_null(strstr(err.msg, "version 2"));
}

static void unknown_keys_are_skipped(void **state)
{
    static const char bytes[] = "\x85\x32\x92\x01\xa1q\xa3key\x81\x01\x02\x00\x01\x01\xa1t"
                                "\x0b\x82\x01\x07\x14\xc0";
    static const char longer_file[] = "\x82\x00\x01\x07\x91\x95\xa1x\xa1y\xc4\x00\x05\xa1z";
    cleanup_job struct job *job = NULL, *with_file = NULL;

    (void)state;
    assert_int_equal(job_decode(bytes, sizeof(bytes) - 1, &job, NULL), 0);
    assert_string_equal(job->tenant, "t");
    assert_int_equal(job->limits.memory_mb, 7);
    assert_int_equal(job_decode(longer_file, sizeof(longer_file) - 1, &with_file, NULL), 0);
    assert_int_equal(with_file->files[0].size, 5);
}

static void bounds(void **state)
{
    cleanup_job struct job *job = job_make();
    cleanup_buf struct buf small = BUF_INIT(100), large = BUF_INIT(4 * JOB_BODY_MAX);
    struct job *back = NULL;

    (void)state;
    assert_int_equal(buf_appends(&small, "before"), 0);
    assert_int_equal(job_encode(job, &small), -ENOSPC);
    assert_string_equal(small.data, "before");
    free(job->lab);
    job->lab = xmalloc(JOB_BODY_MAX);
    memset(job->lab, 'x', JOB_BODY_MAX - 1);
    job->lab[JOB_BODY_MAX - 1] = '\0';
    assert_int_equal(job_encode(job, &large), -ENOSPC);
    assert_int_equal(large.len, 0);
    assert_non_null(buf_reserve(&large, JOB_BODY_MAX + 1));
    assert_int_equal(job_decode(large.data, JOB_BODY_MAX + 1, &back, NULL), -EPROTO);
}

static void tokens(void **state)
{
    static const char *const bad[] = {"",     ".",    "1.",   ".1",    "01.1", "1.01",
                                      "1.1 ", "+1.1", "-1.1", "1.1.1", "1",    "4294967296.1"};
    struct job_token t = {UINT32_MAX, UINT32_MAX}, back = {0, 0};
    char text[JOB_TOKEN_TEXT];

    (void)state;
    job_token_format(t, text);
    assert_string_equal(text, "4294967295.4294967295");
    assert_int_equal(job_token_parse(text, strlen(text), &back), 0);
    assert_memory_equal(&t, &back, sizeof(t));
    assert_int_equal(job_token_parse("0.7xx", 3, &back), 0);
    assert_int_equal(back.attempt, 7);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(job_token_parse(bad[i], strlen(bad[i]), &back), -EINVAL);
    assert_int_equal(back.attempt, 7);
}

static void verdicts(void **state)
{
    enum job_verdict back;

    (void)state;
    for (enum job_verdict v = VERDICT_SUCCESS; v <= VERDICT_DISK; v++) {
        const char *name = job_verdict_name(v);

        assert_int_equal(job_verdict_parse(name, strlen(name), &back), 0);
        assert_int_equal(back, v);
        assert_int_equal(job_verdict_parse(name, strlen(name) - 1, &back), -EINVAL);
    }
    assert_string_equal(job_verdict_name(VERDICT_TIMED_OUT), "timed_out");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(an_empty_job_is_one),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(wrong_bodies_are_refused),
        cmocka_unit_test(unknown_keys_are_skipped),
        cmocka_unit_test(bounds),
        cmocka_unit_test(tokens),
        cmocka_unit_test(verdicts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
