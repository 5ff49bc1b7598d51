#include "base/image_name.h"
#include "base/mem.h"
#include "base/name.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_reserved(void **state)
{
    static const char *const reserved[] = {"milonga.invalid/x",
                                           "milonga.invalid",
                                           "milonga.invalid:5000/x",
                                           "MILONGA.invalid/x",
                                           "kept.milonga.invalid/x",
                                           "a.tenant.milonga.invalid/x",
                                           "a.Tenant.Milonga.Invalid:1/x:2"};
    static const char *const free_to_all[] = {"x", "a/milonga.invalid/x", "notmilonga.invalid/x",
                                              "milonga.invalid.org/x", "x:milonga.invalid"};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(reserved); i++) {
        assert_null(name_check_image(reserved[i], strlen(reserved[i])));
        assert_non_null(image_name_check(reserved[i], strlen(reserved[i])));
    }
    for (size_t i = 0; i < ARRAY_SIZE(free_to_all); i++)
        assert_null(image_name_check(free_to_all[i], strlen(free_to_all[i])));
    assert_string_equal(image_name_check("", 0), "is empty");
    /* a piece of a header ends where it ends */
    assert_non_null(image_name_check("milonga.invalid\r\nHost", strlen("milonga.invalid")));
    assert_null(image_name_check("x.milonga.invalid", strlen("x.milonga")));
}

static void test_own(void **state)
{
    cleanup_free char *own = image_name_own("cs_101_", "course/grader:1");
    cleanup_free char *port = image_name_own("a", "host:5000/x");

    (void)state;
    assert_string_equal(own, "csU101U.tenant.milonga.invalid/course/grader:1");
    assert_null(name_check_image(own, strlen(own)));
    assert_non_null(image_name_check(own, strlen(own)));
    assert_non_null(name_check_image(port, strlen(port)));
}

static void test_shown(void **state)
{
    static const char own[] = "csU1.tenant.milonga.invalid/g:1";

    (void)state;
    assert_string_equal(image_name_shown(own, "cs_1"), "g:1");
    assert_string_equal(image_name_shown(own, NULL), "g:1");
    assert_null(image_name_shown(own, "cs"));
    assert_null(image_name_shown(own, "cs_2"));
    assert_null(image_name_shown(own, "csu1"));
    assert_null(image_name_shown(own, "cs_1x"));
    assert_string_equal(image_name_shown("g:1", "cs_1"), "g:1");
    assert_string_equal(image_name_shown("a.b/g", NULL), "a.b/g");
}

static void test_kept(void **state)
{
    cleanup_free char *kept = image_name_kept("sha256:ba7816bf");

    (void)state;
    assert_string_equal(kept, "kept.milonga.invalid/sha256-ba7816bf");
    assert_null(name_check_image(kept, strlen(kept)));
    assert_true(image_name_is_kept(kept));
    assert_string_equal(image_name_shown(kept, NULL), kept);
    assert_null(image_name_shown(kept, "kept"));
    assert_false(image_name_is_kept("kept/milonga.invalid"));
}

static void test_hide(void **state)
{
    static const char *const texts[][2] = {
        {"", ""},
        {"host 1 is out: \"x/y:1\" failed", "host 1 is out: \"x/y:1\" failed"},
        {"no such image: csU1.tenant.milonga.invalid/g:1, \"kept.MILONGA.invalid/sha256-ab\"!",
         "no such image: [image], \"[image]\"!"},
        {"milonga.invalid", "[image]"},
        {"milonga.invali", "milonga.invali"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        cleanup_free char *text = xstrdup(texts[i][0]);

        image_name_hide(text);
        assert_string_equal(text, texts[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reserved), cmocka_unit_test(test_own),  cmocka_unit_test(test_shown),
        cmocka_unit_test(test_kept),     cmocka_unit_test(test_hide),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
