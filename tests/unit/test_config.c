#include "base/buf.h"
#include "base/config_private.h"
#include "base/mem.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "tests/unit/config_rig.h"

/* Run from the top of the tree, as `make check` does: the files below, milonga.conf and the manual
 * are named from there. */

#define BAD_DIR "tests/unit/data/config-bad"

/* Each file has one fault. What is said of it: the line, the reason, and what to do about it. */
static const struct {
    const char *file;
    unsigned line;
    const char *reason;
    const char *remedy;
} bad_files[] = {
    /* clang-format off */
    {"unknown-key.conf", 2, "prot is not a key", "did you mean port?"},
    {"unit-forgotten.conf", 1, "lease is not a key", "did you mean lease_ms?"},
    {"unknown-key-far.conf", 3, "colour is not a key", "--help lists the keys"},
    {"capital-key.conf", 1, "Port is not a key", "did you mean port?"},
    {"no-equals.conf", 1, "has no \"=\"", "write key = value"},
    {"section.conf", 1, "has no \"=\"", "write key = value"},
    {"twice.conf", 3, "port is set twice, first on line 1", "remove one"},
    {"not-a-number.conf", 1, "port = three is not a whole number", "give 1 to 65535"},
    {"negative.conf", 1, "slots = -1 is not a whole number", "give 0 to 100000"},
    {"empty-number.conf", 1, "slots = (nothing) is not a whole number", "give 0 to 100000"},
    {"out-of-range.conf", 1, "port = 70000 is out of range", "give 1 to 65535"},
    {"overflow.conf", 1, "is not a size", "give 1k to 1T"},
    {"upload-above-1T.conf", 2, "max_body_bytes = 2T is out of range", "give 1k to 1T"},
    {"wrong-unit.conf", 1, "lease_ms = 3 parsecs is not a duration", "give 500ms to 10m"},
    {"half-second.conf", 1, "is not a duration in whole s", "give 1s to 30d"},
    {"not-a-bool.conf", 1, "log_json = maybe is neither yes nor no", "give one of them"},
    {"quotes.conf", 1, "is in quotes", "remove them"},
    {"control-character.conf", 1, "vmm_name = a?b contains a control character", "remove it"},
    {"not-utf8.conf", 1, "is not valid UTF-8", "save the text as UTF-8"},
    {"nul.conf", 2, "contains a NUL byte", "remove it"},
    {"relative-data-dir.conf", 1, "data_dir = var/milonga is not an absolute path", "begin it with /"},
    {"redis-url.conf", 1, "redis_url is not a Redis URL", "write redis://"},
    {"redis-url-db.conf", 1, "redis_url is not a Redis URL", "write redis://"},
    {"redis-url-port.conf", 1, "redis_url is not a Redis URL", "write redis://"},
    {"no-hash-tag.conf", 1, "does not hold one {hash tag}", "write it like {milonga}"},
    {"empty-hash-tag.conf", 1, "does not hold one {hash tag}", "write it like {milonga}"},
    {"two-hash-tags.conf", 1, "does not hold one {hash tag}", "write it like {milonga}"},
    {"glob-prefix.conf", 1, "has other characters", "leave them out"},
    {"store-form.conf", 1, "store = ftp://api is neither an absolute path nor an http(s) URL", "give one of them"},
    {"store-without-key.conf", 1, "needs store_key", "set it as on the api"},
    {"log-level.conf", 1, "log_level = loud is not a level", "give debug, info, warn or error"},
    {"prefix-capital.conf", 1, "prefix = Prod cannot begin a machine's name", "use a-z and 0-9"},
    {"prefix-empty.conf", 1, "is empty or longer than 32 bytes", "give a short name"},
    {"deployment.conf", 1, "is not a label", "use at most 63"},
    {"key-twice.conf", 1, "holds the same key twice", "remove one"},
    {"key-without-text.conf", 1, "holds a tenant without a key", "write tenant:key"},
    {"key-slash.conf", 1, "cannot be in a URL's path", "use letters"},
    {"tenant-dash.conf", 1, "names a tenant that is not", "write tenant:key"},
    {"keys-empty.conf", 1, "keys is empty", "give at least one key"},
    {"listen-host.conf", 1, "is not an address", "give one such as"},
    {"driver.conf", 1, "driver = docker2 is not a driver", "give docker, docker-hosts, oci, ssh, ec2 or null"},
    {"labels.conf", 1, "holds something that is not a label", "commas between labels"},
    {"insecure-hosts.conf", 1, "holds something that is not a host", "write hosts without scheme"},
    {"docker-url.conf", 1, "is not an engine's URL", "write unix:///path"},
    {"docker-url-port.conf", 1, "is not an engine's URL", "write unix:///path"},
    {"volume-path.conf", 1, "is not an absolute path", "begin it with /"},
    {"oci-network.conf", 1, "oci_network = bridge is not a network of oci", "give none or slirp"},
    {"crun.conf", 1, "is not a program", "and no arguments"},
    {"cgroup.conf", 1, "is not a cgroup below ours", "write it like milonga"},
    {"image-alias.conf", 1, "holds something that is not an image name", "put commas between names"},
    {"timeout-above-ceiling.conf", 2, "puts job_timeout_s above job_timeout_max_s (10)", "raise job_timeout_max_s or lower job_timeout_s"},
    {"ceiling-below-default.conf", 1, "puts job_memory_mb above job_memory_max_mb (512)", "raise job_memory_max_mb or lower job_memory_mb"},
    {"body-above-total.conf", 1, "puts max_body_bytes above max_body_total_bytes", "raise max_body_total_bytes or lower max_body_bytes"},
    {"beat-too-slow.conf", 1, "makes leader_lease_ms less than 3 times beat_ms", "raise leader_lease_ms or lower beat_ms"},
    {"lease-too-short.conf", 1, "makes lease_ms less than 3 times beat_ms", "raise lease_ms or lower beat_ms"},
    {"retry-cap.conf", 1, "puts retry_base_ms above retry_cap_ms (100)", "raise retry_cap_ms or lower retry_base_ms"},
    {"connect-timeout.conf", 1, "puts callback_connect_timeout_ms above callback_timeout_ms (5000)", "raise callback_timeout_ms or lower callback_connect_timeout_ms"},
    {"ssh-none.conf", 1, "driver = ssh has no host", "add a line ssh_host"},
    {"ssh-name.conf", 1, "does not begin with a name", "write NAME"},
    {"ssh-port.conf", 2, "has a port that is not one", "1 to 65535"},
    {"ssh-dash.conf", 1, "has no address that ssh could take", "write [USER@]ADDRESS[:PORT]"},
    {"ssh-user.conf", 1, "has a user that is not", "write USER@ADDRESS"},
    {"ssh-slots.conf", 1, "has slots that are no number", "slots=1 to slots=64"},
    {"ssh-exclusive.conf", 1, "is exclusive, so one job at a time", "leave one of them out"},
    {"ssh-mode.conf", 1, "has a mode that is none", "mode=docker"},
    {"ssh-option.conf", 1, "has an unknown option", "those are slots"},
    {"ssh-key.conf", 1, "has a path that is not absolute", "begin it with /"},
    {"ssh-twice.conf", 2, "has the name of another host", "a name of its own"},
    {"ssh-images.conf", 1, "names images", "leave images out"},
    {"ec2-types.conf", 1, "driver = ec2 needs ec2_types", "name instance types"},
    {"ec2-key.conf", 2, "driver = ec2 needs ssh_key", "name the file of the private key"},
    {"ec2-boot.conf", 4, "is longer than init_timeout_ms", "raise init_timeout_ms"},
    {"ec2-price.conf", 4, "has no price of c5.large", "add c5.large=PRICE"},
    {"ec2-prices.conf", 4, "t3.large:0.1, which is not TYPE=PRICE", "write such as"},
    {"ec2-cost.conf", 5, "is not an amount", "give one such as 1.50"},
    {"ec2-min.conf", 4, "is above ec2_max", "raise ec2_max"},
    {"ssh-label.conf", 1, "has a label that is none", "use a-z"},
    {"docker-none.conf", 2, "driver = docker-hosts has no host", "add a line docker_host"},
    {"docker-name.conf", 1, "does not begin with a name", "write NAME URL"},
    {"docker-plain.conf", 1, "has no URL of an engine", "write tcp://ADDRESS[:PORT]"},
    {"docker-ca.conf", 1, "has no certificates to check the engine's by", "docker_ca for all"},
    {"docker-cert.conf", 2, "has no certificate of our own to show", "docker_cert for all"},
    {"docker-key.conf", 1, "has no private key of our certificate", "docker_key for all"},
    {"docker-path.conf", 4, "has a path behind the address", "leave it out"},
    {"docker-user.conf", 4, "has a user, which tcp has not", "certificate says who we are"},
    {"docker-port.conf", 1, "has a port that is not one", "1 to 65535"},
    {"docker-socket.conf", 1, "has no absolute path of a socket", "write unix:///SOCKET"},
    {"docker-option.conf", 1, "has an unknown option", "those are slots, labels, ca, cert and key"},
    {"docker-ssh-ca.conf", 1, "has ca or cert, which only tcp:// uses", "leave them out"},
    {"docker-unix-key.conf", 1, "has a key, which a socket of this machine does not need", "leave it out"},
    {"docker-twice.conf", 2, "has the name of another host", "a name of its own"},
    {"docker-alike.conf", 2, "has the engine of another line", "remove one of the two"},
    /* clang-format on */
};

static void test_bad_files_name_line_reason_and_remedy(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad_files); i++) {
        cleanup_free char *path = xasprintf(BAD_DIR "/%s", bad_files[i].file);
        cleanup_free char *where = xasprintf("%s:%u: ", path, bad_files[i].line);
        cleanup_free char *text = NULL;
        size_t len;
        FILE *out = open_memstream(&text, &len);
        int ct = config_check(path, out);
        fclose(out);
        if (ct != 1)
            fail_msg("%s has %d problems instead of one:\n%s", path, ct, text);
        const char *semicolon = strrchr(text, ';');
        if (!strstr(bad_files[i].remedy, "did you mean") && !semicolon)
            fail_msg("%s: no remedy in %s", path, text);
        if (strncmp(text, where, strlen(where)) != 0 || !strstr(text, bad_files[i].reason) ||
            !strstr(text, bad_files[i].remedy))
            fail_msg("%s should name %s, \"%s\" and \"%s\":\n%s", path, where, bad_files[i].reason,
                     bad_files[i].remedy, text);
        struct config *c = NULL;
        struct error err = ERROR_INIT;
        assert_int_equal(config_load(path, &c, &err), -EINVAL);
        assert_memory_equal(err.msg, text, strlen(err.msg));
    }
}

static void test_every_bad_file_is_in_the_table(void **state)
{
    DIR *dir = opendir(BAD_DIR);
    size_t ct = 0;

    (void)state;
    assert_non_null(dir);
    for (struct dirent *d; (d = readdir(dir)) != NULL;)
        ct += strstr(d->d_name, ".conf") != NULL;
    closedir(dir);
    assert_int_equal(ct, ARRAY_SIZE(bad_files));
}

static void test_check_lists_all_problems(void **state)
{
    cleanup_free char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    (void)state;
    setenv("MILONGA_SLOTS", "many", 1);
    setenv("WAITVM_TIMEOUT", "soon", 1);
    const char *path = file_with("port = 0\nfoo\nkeys = a:secret1, b:secret1\n");
    assert_int_equal(config_check(path, out), 5);
    fclose(out);
    assert_non_null(strstr(text, ":1: port = 0 is out of range"));
    assert_non_null(strstr(text, ":2: has no"));
    assert_non_null(strstr(text, ":3: keys holds the same key twice"));
    assert_non_null(strstr(text, "environment MILONGA_SLOTS: slots = many is not"));
    assert_non_null(strstr(text, "environment WAITVM_TIMEOUT: wait_timeout_ms = soon is not"));
    assert_null(strstr(text, "secret1"));
    load_bad(path, "(and 4 more; --check-config lists them)");
}

static void test_a_file_that_is_not_there(void **state)
{
    struct error err = ERROR_INIT;
    struct config *c = NULL;

    (void)state;
    assert_int_equal(config_load("/nonexistent/milonga.conf", &c, &err), -ENOENT);
    assert_non_null(strstr(err.msg, "/nonexistent/milonga.conf: cannot be read: No such file"));
}

static void test_defaults(void **state)
{
    (void)state;
    struct config *c = load_ok(NULL);
    assert_string_equal(c->data_dir, "/var/lib/milonga");
    assert_string_equal(c->store, "/var/lib/milonga/store");
    assert_string_equal(c->docker_volume_path, "/var/lib/milonga/docker");
    assert_string_equal(c->docker_host_volume_path, "/var/lib/milonga/docker");
    assert_string_equal(c->deployment, "local");
    assert_true(c->vmm_name[0] != '\0');
    assert_int_equal(c->port, 3000);
    assert_int_equal(c->max_body_bytes, 1 << 30);
    assert_int_equal(c->job_timeout_s, 60);
    assert_int_equal(c->job_timeout_max_s, 3600);
    assert_int_equal(c->job_output_bytes, 1024000);
    assert_int_equal(c->dead_max_age_s, 30 * 86400);
    assert_int_equal(c->queue_max_age_s, 86400);
    assert_false(c->log_json);
    assert_int_equal(c->key_ct, 1);
    assert_string_equal(c->key_list[0].tenant, "main");
    assert_string_equal(c->key_list[0].key, "test");
    config_free(c);
    config_free(NULL);
}

static void test_file_forms(void **state)
{
    (void)state;
    struct config *c = load_ok(file_with("\xef\xbb\xbf# a comment\r\n"
                                         "  port=4000   # trailing\r\n"
                                         "\n"
                                         "\tlog_json = YES\n"
                                         "labels =   # none\n"
                                         "store_key = a#b=c\n"
                                         "lease_ms = 4 s\n"
                                         "job_timeout_s = 2m\n"
                                         "job_fsize_bytes = 64m\n"
                                         "slots = 7"));
    assert_int_equal(c->port, 4000);
    assert_true(c->log_json);
    assert_string_equal(c->labels, "");
    assert_string_equal(c->store_key, "a#b=c");
    assert_int_equal(c->lease_ms, 4000);
    assert_int_equal(c->job_timeout_s, 120);
    assert_int_equal(c->job_fsize_bytes, 64 << 20);
    assert_int_equal(c->slots, 7);
    config_free(c);
}

static void test_environment_wins_over_file_and_ours_over_tangos(void **state)
{
    const char *path = file_with("port = 1000\npool_size = 1\njob_retries = 1\n");

    (void)state;
    setenv("PORT", "2000", 1);
    setenv("POOL_SIZE", "5", 1);
    setenv("MILONGA_PORT", "3333", 1);
    struct config *c = load_ok(path);
    assert_int_equal(c->port, 3333);
    assert_int_equal(c->pool_size, 5);
    assert_int_equal(c->job_retries, 1);
    config_free(c);
    setenv("MILONGA_PORT", "", 1);
    load_bad(path, "environment MILONGA_PORT: port = (nothing) is not a whole number");
}

static void test_keys(void **state)
{
    (void)state;
    setenv("MILONGA_KEYS", " cs1: one ,two,cs1:three:four,, ", 1);
    struct config *c = load_ok(NULL);
    assert_int_equal(c->key_ct, 3);
    assert_string_equal(c->key_list[0].tenant, "cs1");
    assert_string_equal(c->key_list[0].key, "one");
    assert_string_equal(c->key_list[1].tenant, "main");
    assert_string_equal(c->key_list[1].key, "two");
    assert_string_equal(c->key_list[2].tenant, "cs1");
    assert_string_equal(c->key_list[2].key, "three:four");
    config_free(c);
    setenv("MILONGA_KEYS", "", 1);
    load_bad(NULL, "environment MILONGA_KEYS: keys is empty");
}

static void test_scopes(void **state)
{
    (void)state;
    setenv("MILONGA_KEYS", "one, main/read:two", 1);
    struct config *c = load_ok(NULL);
    assert_int_equal(c->key_list[0].scope, SCOPE_ADMIN); /* nobody else is here */
    assert_int_equal(c->key_list[1].scope, SCOPE_READ);
    assert_string_equal(c->key_list[1].tenant, "main");
    config_free(c);
    setenv("MILONGA_KEYS", "one, cs/admin:two, cs:three", 1);
    c = load_ok(NULL);
    assert_int_equal(c->key_list[0].scope, SCOPE_WRITE);
    assert_int_equal(c->key_list[1].scope, SCOPE_ADMIN);
    assert_int_equal(c->key_list[2].scope, SCOPE_WRITE);
    config_free(c);
    setenv("MILONGA_KEYS", "cs/root:two", 1);
    load_bad(NULL, "names a scope that is none");
    unsetenv("MILONGA_KEYS");
}

static void test_secrets_are_never_shown(void **state)
{
    static const char *const lines[] = {"keys = hunter2, hunter2\n", "keys = hunter2/x\n",
                                        "redis_url = x://:hunter2@h\n", "store_key = \"hunter2\"\n",
                                        "keys = \"hunter2\"\n"};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        struct error err = ERROR_INIT;
        struct config *c = NULL;
        assert_true(config_load(file_with(lines[i]), &c, &err) < 0);
        assert_null(strstr(err.msg, "hunter2"));
    }
}

static void test_numbers(void **state)
{
    static const struct {
        const char *text;
        int64_t v;
    } durations[] = {{"0", 0},         {"7", 7},
                     {"7ms", 7},       {"7s", 7000},
                     {"7 s", 7000},    {"7m", 420000},
                     {"7h", 25200000}, {"7d", 604800000},
                     {"", -1},         {"s", -1},
                     {"7x", -1},       {"7S", -1},
                     {"-7", -1},       {"+7", -1},
                     {" 7", -1},       {"7  s", -1},
                     {"7.5s", -1},     {"0x7", -1},
                     {"7ss", -1},      {"9223372036854775808", -1},
                     {"7 ", -1},       {"9223372036854775807s", -1}},
      sizes[] = {{"0", 0},        {"1k", 1024},       {"1K", 1024},
                 {"2M", 2097152}, {"1g", 1073741824}, {"1T", 1LL << 40},
                 {"1 k", 1024},   {"1kB", -1},        {"1KiB", -1},
                 {"", -1},        {"9000000T", -1},   {"8388607T", 8388607LL << 40}};
    int64_t v;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(durations); i++) {
        v = -1;
        assert_int_equal(config_parse_ms(durations[i].text, &v), durations[i].v < 0 ? -EINVAL : 0);
        assert_true(v == durations[i].v);
    }
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        v = -1;
        assert_int_equal(config_parse_bytes(sizes[i].text, &v), sizes[i].v < 0 ? -EINVAL : 0);
        assert_true(v == sizes[i].v);
    }
}

static void test_a_guess_is_near_or_none(void **state)
{
    (void)state;
    assert_string_equal(config_key_guess("prot")->name, "port");
    assert_string_equal(config_key_guess("key")->name, "keys");
    assert_string_equal(config_key_guess("max_body")->name, "max_body_bytes");
    assert_null(config_key_guess("url"));
    assert_null(config_key_guess("completely_different"));
}

/* Each row's range must hold its default, and no two may share a field or a name. */
static void test_the_table_is_sound(void **state)
{
    (void)state;
    for (size_t i = 0; i < config_key_ct; i++) {
        const struct config_key *key = &config_keys[i];
        char env[CONFIG_ENV_MAX + 1];
        if (key->type == CONFIG_GROUP)
            continue;
        assert_ptr_equal(config_key_get(key->name), key);
        config_env_name(key, env, sizeof(env));
        assert_true(strlen(env) < CONFIG_ENV_MAX);
        for (size_t j = 0; j < i; j++)
            assert_true(config_keys[j].type == CONFIG_GROUP ||
                        config_keys[j].offset != key->offset);
    }
}

/* The whole struct is in the table: with every field set there is no zero hole in it. The table's
 * fields and the three parsed lists must add up to its size. */
static void test_the_table_covers_the_struct(void **state)
{
    size_t bytes = 3 * (sizeof(void *) + sizeof(size_t)), bools = 0;

    (void)state;
    for (size_t i = 0; i < config_key_ct; i++)
        if (config_keys[i].type == CONFIG_BOOL)
            bools++;
        else if (config_keys[i].type != CONFIG_GROUP)
            bytes += 8;
    /* a lone bool is padded to the next word */
    assert_int_equal(bytes + bools * 8, sizeof(struct config));
}

static void test_milonga_conf_shows_every_key_with_its_default(void **state)
{
    cleanup_free char *text = NULL;
    cleanup_buf struct buf active = BUF_INIT(1 << 20);
    const char *from;

    (void)state;
    assert_int_equal(read_file("milonga.conf", 1 << 20, &text, NULL), 0);
    from = text;
    for (size_t i = 0; i < config_key_ct; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->type == CONFIG_GROUP)
            continue;
        cleanup_free char *line =
            xasprintf("\n#%s =%s%s\n", key->name, *key->def ? " " : "", key->def);
        const char *at = strstr(from, line);
        if (!at)
            fail_msg("milonga.conf does not hold \"%s\" in the table's order", line + 1);
        from = at + strlen(line) - 1;
        buf_appends(&active, line + 2);
    }
    struct config *plain = load_ok("milonga.conf");
    struct config *set = load_ok(file_with(active.data));
    assert_int_equal(plain->port, set->port);
    assert_string_equal(plain->store, set->store);
    config_free(plain);
    config_free(set);
}

/* Lines add up within a source; a stronger one begins anew. */
static void test_docker_hosts(void **state)
{
    struct config *c = load_ok(file_with(
        "driver = docker-hosts\nssh_host = other lab-host\ndocker_ca = /ca\ndocker_cert = /c\n"
        "docker_key = /k\ndocker_host = one tcp://10.0.0.1 slots=4 labels=gpu key=/k1 ca=/ca1\n"
        "docker_host = two tcp://[fe80::1]:2377\n"
        "docker_host = three ssh://grader@10.0.0.3:2222/run/engine.sock key=/s\n"
        "docker_host = four ssh://lab\ndocker_host = five unix:///run/docker.sock\n"));
    const struct config_docker_host *h = c->docker_hosts;

    (void)state;
    assert_int_equal(c->ssh_host_ct, 1);
    assert_int_equal(c->docker_host_ct, 5);
    assert_string_equal(h[0].scheme, "tcp");
    assert_string_equal(h[0].at.name, "one");
    assert_string_equal(h[0].at.address, "10.0.0.1");
    assert_int_equal(h[0].at.port, 2376);
    assert_int_equal(h[0].at.slots, 4);
    assert_string_equal(h[0].at.labels, "gpu");
    assert_string_equal(h[0].ca, "/ca1");
    assert_string_equal(h[0].cert, "/c");
    assert_string_equal(h[0].at.key, "/k1");
    assert_string_equal(h[1].at.address, "fe80::1");
    assert_int_equal(h[1].at.port, 2377);
    assert_string_equal(h[1].at.key, "/k");
    assert_string_equal(h[2].scheme, "ssh");
    assert_string_equal(h[2].at.user, "grader");
    assert_int_equal(h[2].at.port, 2222);
    assert_string_equal(h[2].socket, "/run/engine.sock");
    assert_string_equal(h[2].at.key, "/s");
    assert_string_equal(h[3].socket, "/var/run/docker.sock");
    assert_string_equal(h[3].at.key, "");
    assert_string_equal(h[4].scheme, "unix");
    assert_string_equal(h[4].socket, "/run/docker.sock");
    config_free(c);
}

static void test_ssh_hosts(void **state)
{
    static const char text[] =
        "driver = ssh\nssh_host = one grader@10.0.0.1:2222 slots=4 labels=gpu,arch=arm64 key=/k\n"
        "ssh_dir = /srv/m\nssh_host = two [fe80::1%eth0]:22 exclusive=yes mode=podman "
        "dir=/srv/two\n"
        "ssh_host = three lab-host # comment\n";
    const char *path = file_with(text);
    struct config *c;

    (void)state;
    c = load_ok(path);
    assert_int_equal(c->ssh_host_ct, 3);
    assert_string_equal(c->ssh_hosts[0].name, "one");
    assert_string_equal(c->ssh_hosts[0].user, "grader");
    assert_string_equal(c->ssh_hosts[0].address, "10.0.0.1");
    assert_int_equal(c->ssh_hosts[0].port, 2222);
    assert_int_equal(c->ssh_hosts[0].slots, 4);
    assert_string_equal(c->ssh_hosts[0].labels, "gpu,arch=arm64");
    assert_string_equal(c->ssh_hosts[0].key, "/k");
    assert_string_equal(c->ssh_hosts[0].mode, "direct");
    assert_string_equal(c->ssh_hosts[0].dir, "/srv/m");
    assert_string_equal(c->ssh_hosts[1].address, "fe80::1%eth0");
    assert_int_equal(c->ssh_hosts[1].port, 22);
    assert_true(c->ssh_hosts[1].exclusive);
    assert_string_equal(c->ssh_hosts[1].mode, "podman");
    assert_string_equal(c->ssh_hosts[1].dir, "/srv/two");
    assert_string_equal(c->ssh_hosts[2].user, "");
    assert_int_equal(c->ssh_hosts[2].port, 0);
    assert_int_equal(c->ssh_hosts[2].slots, 1);
    config_free(c);

    setenv("MILONGA_SSH_HOST", "x a; y b slots=2;", 1);
    c = load_ok(path);
    assert_int_equal(c->ssh_host_ct, 2);
    assert_string_equal(c->ssh_hosts[0].name, "x");
    assert_int_equal(c->ssh_hosts[1].slots, 2);
    config_free(c);
}

static void test_the_manual_shows_every_key_with_its_default(void **state)
{
    cleanup_free char *text = NULL;

    (void)state;
    assert_int_equal(read_file("docs/configuration.md", 1 << 20, &text, NULL), 0);
    for (size_t i = 0; i < config_key_ct; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->type == CONFIG_GROUP)
            continue;
        cleanup_free char *row = *key->def ? xasprintf("\n| `%s` | `%s` |", key->name, key->def)
                                           : xasprintf("\n| `%s` | |", key->name);
        if (!strstr(text, row))
            fail_msg("docs/configuration.md has no row \"%s\"", row + 1);
    }
}

static void test_help_names_every_key(void **state)
{
    cleanup_free char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    (void)state;
    config_help(out);
    fclose(out);
    assert_non_null(strstr(text, "  port = 3000\n      port to listen on (1 to 65535) "
                                 "[MILONGA_PORT]\n"));
    assert_non_null(strstr(text, "(1s to 30d) [MILONGA_JOB_TIMEOUT_S]"));
    assert_non_null(strstr(text, "(1k to 1T) [MILONGA_MAX_BODY_BYTES]"));
}

/* Runs config_main() in a child; its exit status, both streams to *ret (the caller's to free). */
static int run_main(char **argv, char **ret)
{
    char path[] = "/tmp/milonga-main-XXXXXX";
    int fd = mkstemp(path), status, argc = 0;
    size_t len;

    assert_true(fd >= 0);
    while (argv[argc])
        argc++;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
        struct config *c = config_main(argc, argv, "api");
        printf("port=%d level=%d\n", (int)c->port, (int)log_level_now());
        config_free(c);
        fflush(NULL);
        _exit(42);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(fd);
    assert_int_equal(read_file(path, 1 << 20, ret, &len), 0);
    unlink(path);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect_main(char **argv, int status, const char *says)
{
    cleanup_free char *text = NULL;
    int got = run_main(argv, &text);

    if (got != status || !strstr(text, says))
        fail_msg("exit %d instead of %d, or no \"%s\" in:\n%s", got, status, says, text);
}

static void test_main_options(void **state)
{
    char *path = xstrdup(file_with("port = 3456\nlog_level = debug\nkeys = abcdefgh\n"));
    char name[] = "milonga-api", config[] = "--config", check[] = "--check-config";
    char version[] = "--version", help[] = "--help", odd[] = "--odd", word[] = "word";

    (void)state;
    expect_main((char *[]){name, config, path, NULL}, 42, "port=3456 level=0\n");
    expect_main((char *[]){name, check, config, path, NULL}, 0, ": ok\n");
    expect_main((char *[]){name, version, NULL}, 0, "milonga api ");
    expect_main((char *[]){name, help, NULL}, 0, "usage: milonga-api");
    expect_main((char *[]){name, odd, NULL}, 2, "--odd");
    expect_main((char *[]){name, word, NULL}, 2, "unexpected argument word");
    expect_main((char *[]){name, config, NULL}, 2, "--config");
    setenv("MILONGA_CONFIG", path, 1);
    expect_main((char *[]){name, NULL}, 42, "port=3456");
    setenv("MILONGA_PORT", "x", 1);
    expect_main((char *[]){name, NULL}, 1, "milonga-api: environment MILONGA_PORT: port = x is");
    expect_main((char *[]){name, check, NULL}, 1, "environment MILONGA_PORT");
    free(path);
}

static void test_main_warns_of_the_key_that_everybody_knows(void **state)
{
    char name[] = "milonga-api";
    cleanup_free char *quiet = NULL;

    (void)state;
    expect_main((char *[]){name, NULL}, 42, "level=warn service=api event=config.default_key");
    setenv("RESTFUL_KEY", "test", 1);
    expect_main((char *[]){name, NULL}, 42, "event=config.default_key");
    setenv("RESTFUL_KEY", "another", 1);
    assert_int_equal(run_main((char *[]){name, NULL}, &quiet), 42);
    assert_null(strstr(quiet, "config."));
    setenv("MILONGA_PROT", "1", 1);
    expect_main((char *[]){name, NULL}, 42, "name=MILONGA_PROT did_you_mean=MILONGA_PORT");
}

static void test_ec2_prices(void **state)
{
    static const char prices[] = "c5.large=0.096, c5.large/spot=0.03,c5.large2=7,t3.nano=1";
    (void)state;

    assert_int_equal(config_money("0.085"), 85000);
    assert_int_equal(config_money("12"), 12000000);
    assert_int_equal(config_money("0.000001"), 1);
    assert_int_equal(config_money(""), -1);
    assert_int_equal(config_money("1,5"), -1);
    assert_int_equal(config_money("-1"), -1);
    assert_int_equal(config_money("0.0000001"), -1);
    assert_int_equal(config_ec2_price(prices, "c5.large", false), 96000);
    assert_int_equal(config_ec2_price(prices, "c5.large", true), 30000);
    assert_int_equal(config_ec2_price(prices, "t3.nano", true), 1000000);
    assert_int_equal(config_ec2_price(prices, "c5", false), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_bad_files_name_line_reason_and_remedy),
        TEST(test_every_bad_file_is_in_the_table),
        TEST(test_check_lists_all_problems),
        TEST(test_a_file_that_is_not_there),
        TEST(test_defaults),
        TEST(test_file_forms),
        TEST(test_environment_wins_over_file_and_ours_over_tangos),
        TEST(test_keys),
        TEST(test_scopes),
        TEST(test_secrets_are_never_shown),
        TEST(test_numbers),
        TEST(test_a_guess_is_near_or_none),
        TEST(test_the_table_is_sound),
        TEST(test_the_table_covers_the_struct),
        TEST(test_milonga_conf_shows_every_key_with_its_default),
        TEST(test_ssh_hosts),
        TEST(test_docker_hosts),
        TEST(test_the_manual_shows_every_key_with_its_default),
        TEST(test_help_names_every_key),
        TEST(test_ec2_prices),
        TEST(test_main_options),
        TEST(test_main_warns_of_the_key_that_everybody_knows),
    };
    return cmocka_run_group_tests(tests, NULL, remove_file);
}
