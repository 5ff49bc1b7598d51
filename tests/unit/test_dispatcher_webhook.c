#include "services/dispatcher/webhook.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* The example of the Standard Webhooks' own text. */
static void test_known_signature(void **state)
{
    static const char body[] = "{\"test\": 2432232314}";
    char out[WEBHOOK_SIGNATURE];

    (void)state;
    assert_int_equal(webhook_sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                                  "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, strlen(body),
                                  out),
                     0);
    assert_string_equal(out, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

static void test_bad_secrets(void **state)
{
    char out[WEBHOOK_SIGNATURE];

    (void)state;
    assert_int_equal(webhook_sign("secret", "m", 1, "", 0, out), -EINVAL);
    assert_int_equal(webhook_sign("whsec_", "m", 1, "", 0, out), -EINVAL);
    assert_int_equal(webhook_sign("whsec_=", "m", 1, "", 0, out), -EINVAL);
    assert_int_equal(webhook_sign("whsec_!!!!", "m", 1, "", 0, out), -EINVAL);
}

static void test_body(void **state)
{
    char lab[] = "l", name[] = "a \"b\"", output[] = "o";
    struct job job = {.lab = lab, .name = name, .output_file = output};
    struct buf b = BUF_INIT(SIZE_MAX);

    (void)state;
    webhook_body(&b, &job, "7", "success", "x\0y", 3, 1700000000123);
    assert_string_equal(b.data,
                        "{\"type\":\"job.finished\",\"timestamp\":\"2023-11-14T22:13:20.123Z\","
                        "\"data\":{\"id\":7,\"lab\":\"l\",\"name\":\"a \\\"b\\\"\","
                        "\"output_file\":\"o\",\"state\":\"finished\",\"verdict\":\"success\","
                        "\"feedback\":\"x\\u0000y\"}}");
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_signature),
        cmocka_unit_test(test_bad_secrets),
        cmocka_unit_test(test_body),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
