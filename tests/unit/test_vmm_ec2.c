/* The EC2 client without a network: answers, keys, codes. */
#include "services/vmm/drivers/ec2_api.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct xml *parse(const char *text)
{
    struct error err = ERROR_INIT;
    struct xml *x = NULL;

    if (xml_parse(text, strlen(text), &x, &err) < 0)
        assert_null(x);
    return x;
}

static void test_xml(void **state)
{
    (void)state;
    struct xml *x = parse("<?xml version=\"1.0\"?>\n<R xmlns=\"http://ec2\"><set>\n <item><a>1</a>"
                          "<b>x &amp; &lt;y&gt; <![CDATA[<z>]]></b></item> <other/>\n"
                          " <item><a>2</a></item><item/></set></R>");
    assert_non_null(x);
    const struct xml *i = xml_find(x, "set/item");
    assert_string_equal(xml_text(i, "a"), "1");
    assert_string_equal(xml_text(i, "b"), "x & <y> <z>");
    i = xml_next(i);
    assert_string_equal(xml_text(i, "a"), "2");
    assert_string_equal(xml_text(i, "b"), "");
    i = xml_next(i);
    assert_string_equal(xml_text(i, "a"), "");
    assert_null(xml_next(i));
    assert_null(xml_find(x, "set/it"));
    assert_string_equal(xml_text(x, "nowhere/at/all"), "");
    xml_free(x);
}

static void test_xml_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "<a>",
        "<a></b>",
        "text",
        "<a/><b/>",
        "<a>&nothing;</a>",
        "<!DOCTYPE a [<!ENTITY e \"x\">]><a>&e;</a>",
        "<!DOCTYPE a SYSTEM \"file:///etc/passwd\"><a/>",
    };
    struct buf deep cleanup_buf = BUF_INIT(4096);

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_null(parse(bad[i]));
    for (int i = 0; i < 40; i++)
        buf_appends(&deep, "<a>");
    for (int i = 0; i < 40; i++)
        buf_appends(&deep, "</a>");
    assert_null(parse(deep.data));
}

static void test_form(void **state)
{
    struct buf form cleanup_buf = BUF_INIT(1);

    (void)state;
    ec2_form(&form, "RunInstances");
    ec2_param(&form, "a b+c/d=e:~", "Tag.%d.Value", 2);
    assert_string_equal(form.data,
                        "Action=RunInstances&Version=2016-11-15&Tag.2.Value=a%20b%2Bc%2Fd%3De%3A~");
}

static void test_profile(void **state)
{
    static const char text[] =
        "# aws_secret_access_key = no\n[default]\naws_access_key_id = "
        "D\naws_secret_access_key=DS\r\n"
        "[ other ]\n aws_access_key_id=O\n;aws_access_key_id=X\naws_secret_access_key = a/b+c=\n"
        "aws_session_token = T==\nregion = eu-west-1\n[half]\naws_access_key_id = H\n";
    struct ec2_keys k = {0};

    (void)state;
    assert_true(ec2_keys_parse_profile(text, "default", &k));
    assert_string_equal(k.id, "D");
    assert_string_equal(k.secret, "DS");
    assert_string_equal(k.token, "");
    ec2_keys_done(&k);
    assert_true(ec2_keys_parse_profile(text, "other", &k));
    assert_string_equal(k.id, "O");
    assert_string_equal(k.secret, "a/b+c=");
    assert_string_equal(k.token, "T==");
    ec2_keys_done(&k);
    assert_false(ec2_keys_parse_profile(text, "half", &k));
    assert_false(ec2_keys_parse_profile(text, "none", &k));
    assert_false(ec2_keys_parse_profile("", "default", &k));
}

static void test_role(void **state)
{
    static const char json[] =
        "{\"Code\":\"Success\",\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"S\","
        "\"Token\":\"T\",\"Expiration\":\"2026-11-24T12:00:00Z\"}";
    int64_t wall = INT64_C(1795521600000) - 60000; /* a minute before */
    struct ec2_keys k = {0};
    struct error err = ERROR_INIT;

    (void)state;
    assert_int_equal(ec2_keys_parse_role(json, strlen(json), wall, 5000, &k, &err), 0);
    assert_string_equal(k.token, "T");
    assert_int_equal(k.until_ms, 65000);
    ec2_keys_done(&k);
    assert_int_equal(ec2_keys_parse_role("{}", 2, wall, 5000, &k, &err), -EPROTO);
    assert_int_equal(ec2_keys_parse_role("", 0, wall, 5000, &k, &err), -EPROTO);
}

static void test_troubles(void **state)
{
    const char *code, *message;

    (void)state;
    struct xml *x = parse("<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code>"
                          "<Message>none left</Message></Error></Errors></Response>");
    ec2_error_parts(x, &code, &message);
    assert_int_equal(ec2_trouble_of(code, 500), EC2_CAPACITY);
    assert_string_equal(message, "none left");
    xml_free(x);
    assert_int_equal(ec2_trouble_of("InvalidInstanceID.NotFound", 400), EC2_GONE);
    assert_int_equal(ec2_trouble_of("InvalidAMIID.NotFound", 400), EC2_GONE);
    assert_int_equal(ec2_trouble_of("UnauthorizedOperation", 403), EC2_DENIED);
    assert_int_equal(ec2_trouble_of("InvalidParameterValue", 400), EC2_DENIED);
    assert_int_equal(ec2_trouble_of("RequestLimitExceeded", 503), EC2_AWAY);
    assert_int_equal(ec2_trouble_of("SomethingNew", 503), EC2_AWAY);
    assert_int_equal(ec2_trouble_of("", 400), EC2_AWAY);
    assert_int_equal(ec2_trouble_of("DryRunOperation", 412), EC2_DRY_RUN);
    ec2_error_parts(NULL, &code, &message);
    assert_string_equal(code, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_xml),  cmocka_unit_test(test_xml_refused),
        cmocka_unit_test(test_form), cmocka_unit_test(test_profile),
        cmocka_unit_test(test_role), cmocka_unit_test(test_troubles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
