#include "services/api/range.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void goes(const char *text, uint64_t total, const char *want)
{
    uint64_t from = 0, len = 0;
    int r = range_parse(text, strlen(text), total, &from, &len);
    char got[64];

    snprintf(got, sizeof(got), r == 1 ? "%d %llu+%llu" : "%d", r, (unsigned long long)from,
             (unsigned long long)len);
    assert_string_equal(got, want);
}

static void test_ranges(void **state)
{
    (void)state;
    goes("bytes=0-9", 100, "1 0+10");
    goes("Bytes=0-", 100, "1 0+100");
    goes("bytes=99-", 100, "1 99+1");
    goes("bytes=90-200", 100, "1 90+10");
    goes("bytes=-10", 100, "1 90+10");
    goes("bytes=-1000", 100, "1 0+100");
    goes("bytes=100-", 100, "-1");
    goes("bytes=-0", 100, "-1");
    goes("bytes=0-", 0, "-1");
    goes("bytes=-5", 0, "-1");
}

static void test_ignored(void **state)
{
    (void)state;
    goes("", 100, "0");
    goes("bytes=", 100, "0");
    goes("bytes=-", 100, "0");
    goes("bytes=5-4", 100, "0");
    goes("bytes=0-1,5-6", 100, "0");
    goes("lines=0-1", 100, "0");
    goes("bytes=0-1x", 100, "0");
    goes("bytes=99999999999999999999-", 100, "0");
    goes("bytes=0", 100, "0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
