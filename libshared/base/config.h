#ifndef MILONGA_CONFIG_H
#define MILONGA_CONFIG_H

/* Configuration: one flat file, `key = value` lines and `#` comments (milonga.conf in the tree is
 * its manual), read by all services. Each key is also an environment variable, MILONGA_ and the key
 * in capitals; the environment wins over the file, the file over the default. What a comment below
 * says of "" is filled in by config_load(), but for `autodriver`; slots stays 0. Tango's own
 * variables (RESTFUL_KEY, DOCKER_DEPLOYMENT, DOCKER_REDIS_HOSTNAME, DOCKER_VOLUME_PATH,
 * DOCKER_TANGO_HOST_VOLUME_PATH, and config.py's names) work under their names, below ours and
 * above the file.
 *
 * One table of keys (config.c) gives name, type, range, default and one line of help; the struct,
 * the check and `--help` follow from it. Strings are owned by the struct. Units are in the names; a
 * value may carry a suffix: ms s m h d for durations, k M G T (powers of 1024) for bytes. */

#include "base/err.h"
#include "base/log.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* What a key may do: look; also submit, upload, wish; also operate the workers. */
enum config_scope { SCOPE_READ = 1, SCOPE_WRITE, SCOPE_ADMIN };

struct config_key_entry { /* a key of a frontend */
    char *tenant;
    char *key;
    enum config_scope scope;
};

/* A line of ssh_host; texts are "" where nothing was said. */
struct config_ssh_host {
    char *name;
    char *user;
    char *address; /* as ssh takes it: a name of its own configuration, too */
    int port;      /* 0: ssh's own */
    char *key;     /* "": ssh_key */
    int slots;     /* 1 */
    char *labels;  /* comma list */
    bool exclusive;
    char *mode;   /* "direct", "docker" or "podman" */
    char *images; /* direct: names under which jobs may ask for it, comma list; "": ssh */
    char *dir;    /* "": ssh_dir */
};

/* A line of docker_host. */
struct config_docker_host {
    struct config_ssh_host at; /* name, slots, labels; of ssh: user, address, port, key; of tcp:
                                  address, port and key, the private one of cert */
    char *scheme;              /* "tcp" (always with TLS), "ssh" or "unix" */
    char *socket;              /* of ssh there, of unix here; absolute */
    char *ca, *cert;           /* of tcp; files */
};

struct config {
    /* common */
    char *data_dir;            /* /var/lib/milonga */
    char *redis_url;           /* redis://127.0.0.1:6379 */
    char *redis_prefix;        /* {milonga} ; must hold one {hash tag} */
    int64_t redis_timeout_ms;  /* 5000 */
    int64_t redis_replicas;    /* 0: that must have an accepted job before the answer leaves */
    char *store;               /* "" = <data_dir>/store; or an http(s) URL of an api */
    int64_t store_cache_bytes; /* 2G; http form */
    char *store_key;           /* secret between our own services, for /store; "" = /store is off */
    char *log_level;           /* info */
    bool log_json;             /* no */
    char *prefix;              /* local: first part of machine names (Tango's PREFIX) */
    char *deployment; /* "" = prefix: what our label on machines says; orphans of it are ours to
                         remove */

    /* api */
    char *keys; /* "tenant:key, tenant/scope:key"; a bare key is tenant "main" */
    struct config_key_entry *key_list; /* parsed from keys */
    size_t key_ct;
    char *listen_host;            /* 0.0.0.0 */
    int64_t port;                 /* 3000 */
    int64_t api_threads;          /* 2: event loops */
    int64_t api_workers;          /* 16: threads that hash and write files */
    int64_t max_body_bytes;       /* 1G */
    int64_t max_body_total_bytes; /* 2G: bytes of bodies in flight */
    int64_t max_connections;      /* 4096 */
    int64_t idle_timeout_ms;      /* 60s: keep-alive without a request */
    int64_t slow_body_bytes_s;    /* 1k: least rate of a body before it is cut */
    int64_t max_live_jobs;        /* 200000 */
    int64_t max_live_bytes;       /* 256M: of their descriptions */
    int64_t dup_window_ms;        /* 60s: the same addJob within is the same job; 0 off */
    int64_t list_max;             /* 1000: jobs in one /jobs answer */
    int64_t wish_wait_ms;         /* 25s: longest wait of prealloc and build */

    /* job defaults and ceilings */
    int64_t job_timeout_s;                          /* 60: RUNJOB_TIMEOUT */
    int64_t job_timeout_max_s;                      /* 3600 */
    int64_t job_cores_milli, job_cores_max_milli;   /* 0 = no limit given; 8000 */
    int64_t job_memory_mb, job_memory_max_mb;       /* 1024; 8192 */
    int64_t job_pids, job_pids_max;                 /* 100; 1000 */
    int64_t job_fsize_bytes, job_fsize_max_bytes;   /* 100M; 1G */
    int64_t job_disk_bytes, job_disk_max_bytes;     /* 1G; 4G: tmpfs and overlay writes */
    int64_t job_output_bytes, job_output_max_bytes; /* 1024000; 16M */
    int64_t watch_bytes; /* 1024000: first bytes of output kept for getPartialOutput */

    /* dispatcher */
    int64_t lease_ms;                    /* 3s: a vmm silent for so long is lost */
    int64_t leader_lease_ms;             /* 2s */
    int64_t beat_ms;                     /* 500 */
    int64_t job_retries;                 /* 2: JOB_RETRIES, after the first try */
    int64_t retry_base_ms, retry_cap_ms; /* 500; 30s */
    int64_t queue_max_age_s;             /* 86400 */
    int64_t pool_size;           /* 2: POOL_SIZE, warm machines of an image that is in use */
    int64_t pool_idle_s;         /* 600: an image not asked for so long is no longer kept warm */
    int64_t callback_delay_ms;   /* 1500, after the addJob answer (spec/tango 8.2) */
    int64_t callback_timeout_ms; /* 30s */
    int64_t callback_connect_timeout_ms; /* 10s */
    int64_t callback_parallel;           /* 16 */
    int64_t callback_max_tries;          /* 40 */
    int64_t callback_retry_cap_ms;       /* 10m */
    char *callback_insecure_hosts; /* "" ; comma list of hosts whose TLS certificate is not verified
                                    */
    char *callback_ca_file;        /* "" = system */
    int64_t dead_max_jobs;         /* 100000 */
    int64_t dead_max_age_s;        /* 30 days */
    int64_t dead_max_bytes;        /* 1G: of their descriptions */
    int64_t rejected_max_jobs;     /* 10000 */
    int64_t labs_max;              /* 100000 */
    int64_t tenant_images_max;     /* 100 */
    int64_t lab_max_age_s;         /* 365 days since it was last used */
    int64_t outbox_max;            /* 100000 callbacks that wait */
    int64_t outbox_max_age_s;      /* 1 day */
    int64_t collect_interval_s;    /* 20m: between two rounds of the store's collector */
    int64_t collect_grace_s;       /* 1h: how long a file that nobody names is kept */
    int64_t collect_quiet_s;       /* 1 day without collecting, after Redis lost its past */

    /* vmm */
    char *vmm_name;             /* "" = host name */
    char *driver;               /* docker | docker-hosts | oci | ssh | ec2 | null */
    int64_t slots;              /* 0 = number of cores */
    bool stop_hands_back;       /* no: the first SIGTERM drains */
    char *labels;               /* comma list that jobs may ask for */
    int64_t warm_max;           /* 16: warm machines of all images */
    int64_t init_timeout_ms;    /* 180s INITIALIZEVM_TIMEOUT */
    int64_t wait_timeout_ms;    /* 60s WAITVM_TIMEOUT */
    int64_t copyin_timeout_ms;  /* 30s COPYIN_TIMEOUT */
    int64_t copyout_timeout_ms; /* 30s */
    int64_t destroy_timeout_ms; /* 10s */
    int64_t reap_interval_ms;   /* 10s */
    int64_t pipe_lease_ms;    /* 10s: an autodriver without a heartbeat for so long kills its job */
    char *autodriver;         /* "" = libexec path beside the binary */
    char *docker_url;         /* unix:///var/run/docker.sock */
    char *docker_volume_path; /* DOCKER_VOLUME_PATH: where the autodriver lies for bind mounts; "" =
                                 <data_dir>/docker */
    char *docker_host_volume_path; /* DOCKER_TANGO_HOST_VOLUME_PATH: the same as the engine sees it;
                                      "" = same */
    char *docker_host;             /* lines as written, with ';' between them */
    struct config_docker_host *docker_hosts; /* parsed from them */
    size_t docker_host_ct;
    char *docker_ca, *docker_cert, *docker_key; /* "" : each host has its own */
    char *oci_crun;                             /* crun */
    char *oci_network;                          /* none | slirp */
    bool oci_host_image;                        /* no: offers the built-in image `host` */
    char *oci_host_image_alias;                 /* "" : further names for it, comma list */
    char *cgroup_parent;                        /* milonga */
    char *ssh_host;                             /* lines as written, with ';' between them */
    struct config_ssh_host *ssh_hosts;          /* parsed from them */
    size_t ssh_host_ct;
    char *ssh_program;          /* ssh */
    char *ssh_config;           /* "" = the account's own */
    char *ssh_known_hosts;      /* "" = as ssh has it */
    char *ssh_key;              /* "" = as ssh has it */
    char *ssh_dir;              /* /var/lib/milonga-host: ours on each host */
    int64_t ssh_dead_ms;        /* 8s: a host that does not answer for so long is lost */
    char *ec2_region;           /* "" = AWS_REGION */
    char *ec2_template;         /* "lt-ID" or NAME, and ":VERSION"; "" = none */
    char *ec2_types;            /* instance types, the first that can be had; comma list */
    char *ec2_subnets;          /* comma list; "" = EC2's default */
    char *ec2_security_groups;  /* ids, comma list; "" = the subnet's default */
    char *ec2_key_name;         /* "" = the image has our key */
    char *ec2_instance_profile; /* "" = none */
    char *ec2_user;             /* admin */
    bool ec2_public;            /* no: reached by its private address */
    int64_t ec2_slots;          /* 1: jobs at once on an instance */
    bool ec2_spot;              /* no; yes: where there is none, on demand */
    int64_t ec2_min;            /* 0: instances that are there whatever waits */
    int64_t ec2_warm;           /* 0: free places for machines that are kept ahead of jobs */
    char *ec2_warm_image;       /* of what, before any image was used; "" = then none */
    int64_t ec2_max;            /* 4: instances at once */
    int64_t ec2_idle_s;         /* 600 */
    int64_t ec2_max_age_s;      /* 1 day */
    char *ec2_prices;           /* "TYPE=0.085,TYPE/spot=0.03": config_ec2_price() */
    char *ec2_cost_max;         /* "": no ceiling; config_money() */
    int64_t ec2_boot_ms;        /* 160s: from the wish to a login */
    int64_t ec2_reap_ms;        /* 60s: between two looks for instances that nobody claims */
    int64_t ec2_claim_ms;       /* 60s: a holder of instances silent for so long is lost */
    bool ec2_reap_dry;          /* no; yes: they are named and left alone */
};

/* Reads path (NULL: none, only environment and defaults), then the environment. On failure *err
 * names file, line, key, value and remedy, and nothing is returned. *ret is the caller's to
 * config_free(). */
int config_load(const char *path, struct config **ret, struct error *err);
void config_free(struct config *c);

/* All problems of a file, one line each, "file:line: reason; remedy" (or "environment NAME: ...")
 * to out. Returns how many. */
int config_check(const char *path, FILE *out);

/* The keys as a manual, for --help. */
void config_help(FILE *out);

/* A duration or size as in a file; 0 or -EINVAL. */
int config_parse_ms(const char *text, int64_t *ret);
int config_parse_bytes(const char *text, int64_t *ret);
/* "0.085" as 85000 millionths; -1 when it is no such number. */
int64_t config_money(const char *text);
/* What a type costs an hour by ec2_prices; without a price for spot, that on demand, above which
 * spot never is. -1 when there is none. */
int64_t config_ec2_price(const char *prices, const char *type, bool spot);

/* What every service's main() does first: options --config FILE, --check-config, --version, --help
 * (the last three print and exit 0; --check-config exits 1 on problems; unknown options exit 2),
 * environment MILONGA_CONFIG, load, log_setup. Exits with a sentence on stderr when the
 * configuration is bad. */
struct config *config_main(int argc, char **argv, const char *service);

#endif
