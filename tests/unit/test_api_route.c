#include "services/api/route.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static const struct route routes[] = {
    {"root", ROUTE_GET, "/", ROUTE_BODY_SMALL, NULL},
    {"open", ROUTE_GET, "/open/:key/:name", ROUTE_BODY_SMALL, NULL},
    {"poll", ROUTE_GET, "/poll/:key/:name/:name", ROUTE_BODY_SMALL, NULL},
    {"pool", ROUTE_GET, "/pool/:key/:image?", ROUTE_BODY_SMALL, NULL},
    {"pools", ROUTE_GET, "/pool/:key", ROUTE_BODY_SMALL, NULL},
    {"prealloc", ROUTE_POST, "/prealloc/:key/:image/:digits", ROUTE_BODY_SMALL, NULL},
};

/* "200 open k lab": status, route, parameters */
static void goes_to(const char *method, const char *path, const char *want)
{
    struct route_match m;
    char got[512];
    int n, status = route_find(routes, sizeof(routes) / sizeof(routes[0]), method, strlen(method),
                               path, strlen(path), &m);

    n = snprintf(got, sizeof(got), "%d", status);
    if (status == 200)
        n += snprintf(got + n, sizeof(got) - (size_t)n, " %s", m.route->name);
    for (unsigned i = 0; status == 200 && i < m.param_ct; i++)
        n +=
            snprintf(got + n, sizeof(got) - (size_t)n, " %.*s", (int)m.param[i].len, m.param[i].at);
    assert_string_equal(got, want);
}

static void test_find(void **state)
{
    (void)state;
    goes_to("GET", "/", "200 root");
    goes_to("GET", "//", "404");
    goes_to("GET", "", "200 root");
    goes_to("POST", "/", "405");
    goes_to("HEAD", "/", "405");
    goes_to("BREW", "/", "405");
    goes_to("GET", "/open/k/lab/", "200 open k lab");
    goes_to("GET", "/open/k/lab", "200 open k lab");
    goes_to("GET", "/open/k/lab/?x=/y/", "200 open k lab");
    goes_to("GET", "/open/k/a/b/", "200 open k/a b");
    goes_to("GET", "/open/k/a%2Fb/", "200 open k a%2Fb");
    goes_to("GET", "/open//lab/", "404");
    goes_to("GET", "/open/k//", "404");
    goes_to("GET", "/open/k/", "404");
    goes_to("GET", "/OPEN/k/lab/", "404");
    goes_to("GET", "/nosuch", "404");
    goes_to("POST", "/nosuch", "404");
    goes_to("GET", "/poll/k/lab/out", "200 poll k lab out");
    goes_to("GET", "/poll/k/x/lab/out", "200 poll k/x lab out");
    goes_to("GET", "/pool/k/", "200 pools k");
    goes_to("GET", "/pool/k//", "200 pool k ");
    goes_to("GET", "/pool/k/img/", "200 pool k img");
    goes_to("GET", "/pool/k/reg:5000/a/img:1/", "200 pool k reg:5000/a/img:1");
    goes_to("POST", "/prealloc/k/img/12/", "200 prealloc k img 12");
    goes_to("POST", "/prealloc/k/reg/img/12", "200 prealloc k reg/img 12");
    goes_to("POST", "/prealloc/k/img/-1/", "404");
    goes_to("GET", "/prealloc/k/img/12/", "405");
}

static void test_many_segments(void **state)
{
    char path[4096] = "/open";
    struct route_match m;

    (void)state;
    for (int i = 0; i < 1000; i++)
        strcat(path, "/a");
    assert_int_equal(route_find(routes, 2, "GET", 3, path, strlen(path), &m), 200);
    assert_int_equal(m.param_ct, 2);
    assert_ptr_equal(m.param[1].at + m.param[1].len, path + strlen(path));
}

static void decodes(const char *raw, const char *want)
{
    char out[64];
    long n = route_decode((struct route_param){raw, strlen(raw)}, out);

    if (!want) {
        assert_int_equal(n, -1);
        return;
    }
    assert_int_equal(n, (long)strlen(want));
    assert_string_equal(out, want);
}

static void test_decode(void **state)
{
    char out[8];

    (void)state;
    decodes("plain", "plain");
    decodes("a%20b%40c", "a b@c");
    decodes("a+b", "a+b");
    decodes("%2540", "%40");
    decodes("%c3%a9", "\xc3\xa9");
    decodes("..%2F", "../");
    decodes("", "");
    decodes("%ff", NULL);
    decodes("%zz", NULL);
    decodes("%4", NULL);
    decodes("%", NULL);
    decodes("\xff", NULL);
    assert_int_equal(route_decode((struct route_param){"a%00b", 5}, out), 3);
    assert_memory_equal(out, "a\0b", 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_many_segments),
        cmocka_unit_test(test_decode),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
