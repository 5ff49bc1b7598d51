/* Settings in Tango's words, and what they say in ours. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/config_rig.h"

static void test_tango_variables(void **state)
{
    static const char *const set[][2] = {
        {"RESTFUL_KEY", "a:b, c"},
        {"DOCKER_DEPLOYMENT", "Prod"},
        {"DOCKER_REDIS_HOSTNAME", "Redis"},
        {"REDIS_PORT", "6380"},
        {"PORT", "3001"},
        {"DOCKER_VOLUME_PATH", "/opt/volumes"},
        {"DOCKER_TANGO_HOST_VOLUME_PATH", "/srv/volumes"},
        {"PREFIX", "ignored"},
        {"LOGLEVEL", "WARNING"},
        {"RUNJOB_TIMEOUT", "7200"},
        {"WAITVM_TIMEOUT", "61"},
        {"INITIALIZEVM_TIMEOUT", "181"},
        {"COPYIN_TIMEOUT", "31"},
        {"COPYOUT_TIMEOUT", "32"},
        {"JOB_RETRIES", "3"},
        {"POOL_SIZE", "4"},
        {"MAX_OUTPUT_FILE_SIZE", "33554432"},
        {"MAX_INPUT_FILE_SIZE", "10737418240"},
        {"VM_ULIMIT_FILE_SIZE", "2147483648"},
        {"VM_ULIMIT_USER_PROC", "2000"},
        {"DOCKER_CORES_LIMIT", "1.5"},
        {"DOCKER_MEMORY_LIMIT", "16384"},
        {"VMMS_NAME", "localDocker"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(set); i++)
        setenv(set[i][0], set[i][1], 1);
    struct config *c = load_ok(NULL);
    assert_int_equal(c->key_ct, 1);
    assert_string_equal(c->key_list[0].tenant, "main");
    assert_string_equal(c->key_list[0].key, "a:b, c");
    assert_string_equal(c->prefix, "prod");
    assert_string_equal(c->deployment, "prod");
    assert_string_equal(c->redis_url, "redis://redis:6380");
    assert_int_equal(c->port, 3001);
    assert_string_equal(c->docker_volume_path, "/opt/volumes");
    assert_string_equal(c->docker_host_volume_path, "/srv/volumes");
    assert_string_equal(c->log_level, "warn");
    assert_int_equal(c->job_timeout_s, 7200);
    assert_int_equal(c->wait_timeout_ms, 61000);
    assert_int_equal(c->init_timeout_ms, 181000);
    assert_int_equal(c->copyin_timeout_ms, 31000);
    assert_int_equal(c->copyout_timeout_ms, 32000);
    assert_int_equal(c->job_retries, 3);
    assert_int_equal(c->pool_size, 4);
    assert_int_equal(c->job_output_bytes, 33554432);
    assert_true(c->max_body_bytes == 10737418240);
    assert_true(c->job_fsize_bytes == 2147483648);
    assert_int_equal(c->job_pids, 2000);
    assert_int_equal(c->job_cores_milli, 1500);
    assert_int_equal(c->job_memory_mb, 16384);
    assert_string_equal(c->driver, "docker");
    /* ceilings that Tango does not know follow */
    assert_int_equal(c->job_timeout_max_s, 7200);
    assert_true(c->max_body_total_bytes == 10737418240);
    assert_int_equal(c->job_memory_max_mb, 16384);
    assert_int_equal(c->job_pids_max, 2000);
    assert_int_equal(c->job_output_max_bytes, 33554432);
    config_free(c);

    /* but not one that somebody has set */
    load_bad(file_with("job_timeout_max_s = 1h\n"),
             "environment RUNJOB_TIMEOUT: job_timeout_s = 7200 puts job_timeout_s above");
    setenv("MAX_INPUT_FILE_SIZE", "1099511627777", 1);
    load_bad(NULL, "environment MAX_INPUT_FILE_SIZE: max_body_bytes = 1099511627777 is out of "
                   "range; give 1k to 1T");
}

static void test_tango_variables_that_say_nothing(void **state)
{
    (void)state;
    setenv("RESTFUL_KEY", "", 1);
    setenv("DOCKER_DEPLOYMENT", "", 1);
    setenv("DOCKER_CORES_LIMIT", "None", 1);
    setenv("PORT", "", 1);
    setenv("REDIS_PORT", "tcp://10.0.0.7:6379", 1);
    setenv("PREFIX", "/usr/local", 1);
    struct config *c = load_ok(NULL);
    assert_string_equal(c->key_list[0].key, "test");
    assert_string_equal(c->prefix, "local");
    assert_int_equal(c->job_cores_milli, 0);
    assert_int_equal(c->port, 3000);
    assert_string_equal(c->redis_url, "redis://127.0.0.1:6379");
    config_free(c);
}

static void test_tango_redis(void **state)
{
    const char *path = file_with("redis_url = redis://:pw@other:7000/2\n");

    (void)state;
    setenv("REDIS_PORT", "6380", 1);
    struct config *c = load_ok(NULL);
    assert_string_equal(c->redis_url, "redis://127.0.0.1:6380");
    config_free(c);
    /* a port alone does not move a server that has a name */
    c = load_ok(path);
    assert_string_equal(c->redis_url, "redis://:pw@other:7000/2");
    config_free(c);
    setenv("DOCKER_REDIS_HOSTNAME", "::1", 1);
    c = load_ok(path);
    assert_string_equal(c->redis_url, "redis://[::1]:6380");
    config_free(c);
    setenv("MILONGA_REDIS_URL", "unix:///run/redis.sock?db=1", 1);
    c = load_ok(path);
    assert_string_equal(c->redis_url, "unix:///run/redis.sock?db=1");
    config_free(c);
    unsetenv("MILONGA_REDIS_URL");
    setenv("REDIS_PORT", "99999", 1);
    load_bad(NULL, "environment DOCKER_REDIS_HOSTNAME: redis_url is not a Redis URL");
}

static void test_tango_backends(void **state)
{
    (void)state;
    setenv("VMMS_NAME", "ec2SSH", 1);
    load_bad(NULL, "environment VMMS_NAME: driver = ec2SSH is not a driver");
    setenv("VMMS_NAME", "oci", 1);
    setenv("DOCKER_CORES_LIMIT", "1.2.3", 1);
    load_bad(NULL, "environment DOCKER_CORES_LIMIT: job_cores_milli = 1.2.3 is not");
    setenv("DOCKER_CORES_LIMIT", "0.25", 1);
    struct config *c = load_ok(NULL);
    assert_int_equal(c->job_cores_milli, 250);
    config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_tango_variables),
        TEST(test_tango_variables_that_say_nothing),
        TEST(test_tango_redis),
        TEST(test_tango_backends),
    };
    return cmocka_run_group_tests(tests, NULL, remove_file);
}
