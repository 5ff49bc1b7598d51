#include "base/digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const struct {
    enum digest_kind kind;
    const char *text;
    const char *hex;
} known[] = {
    {DIGEST_SHA256, "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {DIGEST_SHA256, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {DIGEST_SHA1, "", "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
    {DIGEST_SHA1, "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"},
    {DIGEST_MD5, "", "d41d8cd98f00b204e9800998ecf8427e"},
    {DIGEST_MD5, "abc", "900150983cd24fb0d6963f7d28e17f72"},
};

static void test_known_answers(void **state)
{
    char hex[SHA256_HEX + 1];

    (void)state;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        digest_hex(known[i].kind, known[i].text, strlen(known[i].text), hex);
        assert_string_equal(hex, known[i].hex);
    }
}

static void test_pieces_are_as_the_whole(void **state)
{
    char hex[SHA256_HEX + 1];
    struct digest *d = digest_new(DIGEST_SHA256);

    (void)state;
    digest_update(d, "a", 1);
    digest_update(d, NULL, 0);
    digest_update(d, "bc", 2);
    digest_final(d, hex);
    assert_string_equal(hex, known[1].hex);
}

static void test_free_without_an_end(void **state)
{
    (void)state;
    struct digest *d = digest_new(DIGEST_MD5);
    digest_update(d, "x", 1);
    digest_free(d);
    digest_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_pieces_are_as_the_whole),
        cmocka_unit_test(test_free_without_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
