#include "base/clock.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static void test_until(void **state)
{
    int64_t now = clock_mono_ms();

    (void)state;
    assert_int_equal(clock_until_ms(CLOCK_NEVER), -1);
    assert_int_equal(clock_until_ms(now), 0);
    assert_int_equal(clock_until_ms(INT64_MIN), 0);
    assert_int_equal(clock_until_ms(CLOCK_NEVER - 1), INT_MAX);
    int left = clock_until_ms(now + 60000);
    assert_true(left > 50000 && left <= 60000);
    assert_true(clock_mono_ms() >= now);
}

static void test_wall_is_now(void **state)
{
    (void)state;
    assert_true(llabs(clock_wall_ms() - (int64_t)time(NULL) * 1000) < 5000);
}

static void test_ctime_utc(void **state)
{
    char buf[32];

    (void)state;
    clock_ctime_utc(1795504100999, buf, sizeof(buf));
    assert_string_equal(buf, "Tue Nov 24 07:08:20 2026");
    clock_ctime_utc(1793689700000, buf, sizeof(buf));
    assert_string_equal(buf, "Tue Nov  3 07:08:20 2026");
    clock_ctime_utc(0, buf, sizeof(buf));
    assert_string_equal(buf, "Thu Jan  1 00:00:00 1970");
    clock_ctime_utc(-1, buf, sizeof(buf));
    assert_string_equal(buf, "Wed Dec 31 23:59:59 1969");
    clock_ctime_utc(INT64_MAX, buf, sizeof(buf));
    assert_true(strlen(buf) < sizeof(buf));
}

static void test_ctime_local_follows_tz(void **state)
{
    char buf[32];

    (void)state;
    setenv("TZ", "LOC-2", 1);
    tzset();
    clock_ctime_local(1795504100000, buf, sizeof(buf));
    assert_string_equal(buf, "Tue Nov 24 09:08:20 2026");
    clock_ctime_utc(1795504100000, buf, sizeof(buf));
    assert_string_equal(buf, "Tue Nov 24 07:08:20 2026");
}

static void test_backoff_stays_in_its_range_and_fills_it(void **state)
{
    (void)state;
    for (unsigned tries = 0; tries < 80; tries++) {
        int64_t high = tries < 6 ? 500 << tries : 30000, least = INT64_MAX, most = 0;
        for (int i = 0; i < 200; i++) {
            int64_t v = clock_backoff_ms(tries, 500, 30000);
            assert_true(v >= 250 && v <= (high < 30000 ? high : 30000));
            least = v < least ? v : least;
            most = v > most ? v : most;
        }
        assert_true(least < most);
    }
}

static void test_backoff_at_its_edges(void **state)
{
    (void)state;
    assert_int_equal(clock_backoff_ms(5, 0, 0), 0);
    assert_int_equal(clock_backoff_ms(5, -1, 100), 0);
    assert_int_equal(clock_backoff_ms(0, 1000, 100), 100);
    assert_int_equal(clock_backoff_ms(3, 500, -7), 0);
    int64_t v = clock_backoff_ms(UINT_MAX, INT64_MAX / 2, INT64_MAX);
    assert_true(v >= INT64_MAX / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_until),
        cmocka_unit_test(test_wall_is_now),
        cmocka_unit_test(test_ctime_utc),
        cmocka_unit_test(test_ctime_local_follows_tz),
        cmocka_unit_test(test_backoff_stays_in_its_range_and_fills_it),
        cmocka_unit_test(test_backoff_at_its_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
