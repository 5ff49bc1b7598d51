#include "base/name.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

typedef const char *check_fn(const char *s, size_t len);

static void good(check_fn *fn, const char *s)
{
    const char *wrong = fn(s, strlen(s));

    if (wrong)
        fail_msg("\"%s\" should be good but %s", s, wrong);
}

static void bad(check_fn *fn, const char *s)
{
    if (!fn(s, strlen(s)))
        fail_msg("\"%s\" should be refused", s);
}

static void test_file_and_lab(void **state)
{
    static const char *const fine[] = {"a",
                                       "Makefile",
                                       "...",
                                       ".hidden",
                                       "a b",
                                       "a-",
                                       "x|y",
                                       "\xc3\xa9t\xc3\xa9.c",
                                       "\xf0\x9f\x92\x83",
                                       "a\\b",
                                       "a:b"};
    static const char *const wrong[] = {"",     ".",        "..",           "-x",        "a/b",
                                        "/",    "a\nb",     "a\x7f",        "a\xc2\x85", "\xff",
                                        "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\t"};
    char longest[NAME_MAX_FILE + 2];

    (void)state;
    for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++) {
        good(name_check_file, fine[i]);
        good(name_check_lab, fine[i]);
    }
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        bad(name_check_file, wrong[i]);
        bad(name_check_lab, wrong[i]);
    }
    assert_string_equal(name_check_file("", 0), "is empty");
    assert_string_equal(name_check_file("a/b", 3), "contains a slash");
    assert_non_null(name_check_file("a\0b", 3));
    memset(longest, 'n', sizeof(longest));
    assert_null(name_check_file(longest, NAME_MAX_FILE));
    assert_non_null(name_check_file(longest, NAME_MAX_FILE + 1));
}

static void test_job(void **state)
{
    (void)state;
    good(name_check_job, "lab 1 / student@example.org - 3");
    good(name_check_job, "-x");
    good(name_check_job, "..");
    bad(name_check_job, "");
    bad(name_check_job, "a|b");
    bad(name_check_job, "a\nb");
    bad(name_check_job, "a\xfe");
}

static void test_image(void **state)
{
    static const char *const fine[] = {
        "rhel.img",
        "autograding_image",
        "ubuntu:22.04",
        "Ubuntu.img",
        "a/b/c",
        "registry.example.org:5000/x/y:tag-1",
        "localhost:5000/x",
        "ami+t2.micro",
        "x@sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "r:1/x:t@sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    };
    static const char *const wrong[] = {
        "",
        "-x",
        "/x",
        "x/",
        "a//b",
        "../x",
        "a/../b",
        "a/-b",
        "x:",
        "x:-t",
        "x y",
        "x;y",
        "a/b:c/d",
        "r:/x",
        "r:x/y",
        "r:123456/y",
        "x@",
        "x@md5",
        "x@sha256:zz",
        ":t",
        "x@sha256:BA7816BF8F01CFEA414140DE5DAE2223",
        "@sha256:ba7816bf8f01cfea414140de5dae2223",
        "x:t:u",
        "\xc3\xa9",
        "x\n",
        "a/.b",
        "$(x)",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++)
        good(name_check_image, fine[i]);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        bad(name_check_image, wrong[i]);
    assert_non_null(name_check_image("a\0b", 3));
}

static void test_label_and_tenant(void **state)
{
    (void)state;
    good(name_check_label, "gpu=1");
    good(name_check_label, "a-b_c.d");
    bad(name_check_label, "-a");
    bad(name_check_label, "A");
    bad(name_check_label, "a b");
    bad(name_check_label, "");
    assert_non_null(name_check_label("a\0b", 3));
    good(name_check_tenant, "cs_101");
    bad(name_check_tenant, "a-b");
    bad(name_check_tenant, "A");
    bad(name_check_tenant, "");
    bad(name_check_tenant, "123456789012345678901234567890123");
}

static void test_utf8(void **state)
{
    static const char *const wrong[] = {"\x80",
                                        "\xc1\xbf",
                                        "\xe0\x9f\xbf",
                                        "\xed\xbf\xbf",
                                        "\xf0\x8f\xbf\xbf",
                                        "\xf4\x90\x80\x80",
                                        "\xf5\x80\x80\x80",
                                        "\xe2\x82",
                                        "a\xe2\x28\xa1"};

    (void)state;
    assert_true(utf8_valid("", 0));
    assert_true(utf8_valid("a\0b", 3));
    assert_true(utf8_valid("\xef\xbf\xbf\xf4\x8f\xbf\xbf\xee\x80\x80\xdf\xbf", 12));
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_false(utf8_valid(wrong[i], strlen(wrong[i])));
}

static void test_key_equal(void **state)
{
    (void)state;
    assert_true(key_equal("test", 4, "test", 4));
    assert_true(key_equal("", 0, "", 0));
    assert_false(key_equal("test", 4, "tesT", 4));
    assert_false(key_equal("test", 4, "tes", 3));
    assert_false(key_equal("tes", 3, "test", 4));
    assert_false(key_equal("", 0, "x", 1));
    assert_false(key_equal("x", 1, "", 0));
    assert_true(key_equal("\xff\x00z", 3, "\xff\x00z", 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_and_lab), cmocka_unit_test(test_job),
        cmocka_unit_test(test_image),        cmocka_unit_test(test_label_and_tenant),
        cmocka_unit_test(test_utf8),         cmocka_unit_test(test_key_equal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
