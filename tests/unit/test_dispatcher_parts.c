/* Targets of pools, generations, the set of digests that are kept, and what a callback makes of
 * text, hosts and statuses. */

#include "services/dispatcher/callback.c"
#include "services/dispatcher/dispatcher.h"
#include "services/dispatcher/generation.c"
#include "services/dispatcher/keepset.c"
#include "services/dispatcher/pools.c"
#include "services/dispatcher/reply.c"
#include "services/dispatcher/scripts.c"
#include "services/dispatcher/webhook.c"
#include "services/dispatcher/world.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* What dispatcher.c would give; nothing here talks to Redis. */
int dispatcher_ask(struct dispatcher *d, const struct script *s, int argc, const char **argv,
                   const size_t *argvlen, redisReply **ret, struct error *err)
{
    (void)d, (void)s, (void)argc, (void)argv, (void)argvlen, (void)ret, (void)err;
    fail();
    return -1;
}

struct number number(int64_t v)
{
    struct number n;

    snprintf(n.text, sizeof(n.text), "%lld", (long long)v);
    return n;
}

/* ---- pools ---- */

#define PAIR(k, v)                                                                                 \
    {                                                                                              \
        (char *)(k), (char *)(v)                                                                   \
    }

static void test_pools(void **state)
{
    struct pair wishes[] = {PAIR("b", "5 0 0"), PAIR("off", "0 0 0")};
    struct pair used[] = {PAIR("a", "1000"), PAIR("b", "1000"), PAIR("off", "1000"),
                          PAIR("old", "1")};
    struct pair images[] = {PAIR("a", "d1"), PAIR("b", "d2")};
    struct vmm_view v[4] = {{.up = true}, {.up = true, .drain = true}, {.up = true}, {.up = false}};
    struct vmm_view *vmms[4];
    struct world w = {.wishes = {wishes, 2}, .used = {used, 4}, .vmms = vmms, .vmm_ct = 4};
    struct pool_target t[4];
    unsigned shares[4];

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        v[i].images = (struct pairs){images, 2};
        vmms[i] = &v[i];
    }
    assert_int_equal(pools_targets(&w, 1500, 2, 600, t, 4), 2);
    assert_string_equal(t[0].image, "a");
    assert_int_equal(t[0].want, 2);
    assert_string_equal(t[1].image, "b");
    assert_int_equal(t[1].want, 5);
    pools_split(&w, &t[1], shares);
    assert_int_equal(shares[0], 3);
    assert_int_equal(shares[1], 0);
    assert_int_equal(shares[2], 2);
    assert_int_equal(shares[3], 0);
    assert_int_equal(pools_targets(&w, 1500, 0, 600, t, 4), 1);
    assert_int_equal(pools_targets(&w, 1500, 2, 600, t, 1), 1);
}

/* ---- generations ---- */

static void test_generation(void **state)
{
    struct generation g;
    int64_t a = 0, b = 0;

    (void)state;
    assert_int_equal(generation_new(0, 0, 0, 0, 100, &g), 0);
    assert_true(g.generation == 1 && g.id_next == 1 && g.id_limit == 101);
    assert_int_equal(generation_new(3, 50, 5, 200, 100, &g), 0); /* Redis came back older */
    assert_true(g.generation == 6 && g.id_next == 200 && g.id_limit == 300);
    assert_int_equal(generation_new(9, 500, 5, 200, 100, &g), 0); /* the record did */
    assert_true(g.generation == 10 && g.id_next == 500 && g.id_limit == 600);
    assert_int_equal(generation_new(1, GENERATION_ID_MAX - 5, 1, 0, 100, &g), 0);
    assert_true(g.id_limit == GENERATION_ID_MAX);
    assert_int_equal(generation_new(1, GENERATION_ID_MAX, 1, 0, 100, &g), -EOVERFLOW);
    assert_int_equal(generation_parse("4 100001", &a, &b), 0);
    assert_true(a == 4 && b == 100001);
    assert_int_equal(generation_parse("4 100001\n", &a, &b), 0);
    assert_int_equal(generation_parse("", &a, &b), -EPROTO);
    assert_int_equal(generation_parse("4", &a, &b), -EPROTO);
    assert_int_equal(generation_parse("4 -1", &a, &b), -EPROTO);
    assert_int_equal(generation_parse("4 5 6", &a, &b), -EPROTO);
}

/* ---- kept digests ---- */

static void test_keepset(void **state)
{
    struct keepset k;
    char hex[SHA256_HEX + 1];

    (void)state;
    keepset_init(&k);
    assert_false(keepset_has(&k, "", 0));
    for (int i = 0; i < 5000; i++) {
        digest_hex(DIGEST_SHA256, &i, sizeof(i), hex);
        if (i % 2)
            keepset_add(&k, hex, SHA256_HEX);
        keepset_add(&k, hex, 10);
    }
    assert_int_equal(k.ct, 2500);
    for (int i = 0; i < 5000; i++) {
        digest_hex(DIGEST_SHA256, &i, sizeof(i), hex);
        assert_int_equal(keepset_has(&k, hex, SHA256_HEX), i % 2);
    }
    keepset_done(&k);
}

/* ---- callbacks ---- */

static void test_utf8_clean(void **state)
{
    static const struct {
        const char *in, *out;
    } t[] = {
        {"", ""},
        {"plain", "plain"},
        {"h\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "h\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"a\xff"
         "b",
         "ab"},
        {"\xc0\x80x", "x"},         /* overlong */
        {"\xed\xa0\x80x", "x"},     /* a surrogate */
        {"\xf4\x90\x80\x80x", "x"}, /* beyond Unicode */
        {"\xe2\x82"
         "A",
         "A"},
        {"\xe2\xe2\x82\xac", "\xe2\x82\xac"},
        {"x\xf0\x9f\x98", "x"},
        {"\xe0\x80\x80\xf0\x80\x80\x80!", "!"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        char s[64];
        size_t len = strlen(t[i].in);

        memcpy(s, t[i].in, len);
        len = utf8_clean(s, len);
        assert_int_equal(len, strlen(t[i].out));
        assert_memory_equal(s, t[i].out, len);
        assert_true(utf8_valid(s, len));
    }
}

static void test_hosts_and_statuses(void **state)
{
    (void)state;
    assert_true(host_listed("a.example, b.example", "B.Example"));
    assert_false(host_listed("a.example, b.example", "example"));
    assert_false(host_listed("", "a"));
    assert_false(host_listed(" , ", ""));
    assert_int_equal(callback_judge(204), CALLBACK_SENT);
    assert_int_equal(callback_judge(429), CALLBACK_RETRY);
    assert_int_equal(callback_judge(502), CALLBACK_RETRY);
    assert_int_equal(callback_judge(404), CALLBACK_FAILED);
    assert_int_equal(callback_judge(304), CALLBACK_FAILED);
    assert_int_equal(callback_judge(0), CALLBACK_FAILED);
}

static void test_header_can_not_be_ended(void **state)
{
    struct config cfg = {.callback_insecure_hosts = (char *)"", .callback_ca_file = (char *)""};
    struct callback *c;
    struct error err = ERROR_INIT;

    (void)state;
    assert_int_equal(callback_new(&cfg, "http://h/", "a/b\r\nX: y", xstrdup("t"), 1, &c, &err), 0);
    assert_string_equal(c->headers->next->data, "Filename: b__X: y");
    assert_string_equal(callback_host(c), "h");
    callback_free(c);
    assert_true(callback_new(&cfg, "ftp://h/", "o", xstrdup("t"), 1, &c, &err) < 0);
    assert_int_equal(err.class, ERR_PERMANENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pools),
        cmocka_unit_test(test_generation),
        cmocka_unit_test(test_keepset),
        cmocka_unit_test(test_utf8_clean),
        cmocka_unit_test(test_hosts_and_statuses),
        cmocka_unit_test(test_header_can_not_be_ended),
    };

    return cmocka_run_group_tests_name("dispatcher_parts", tests, NULL, NULL);
}
