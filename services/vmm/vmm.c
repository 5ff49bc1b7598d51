#include "vmm.h"

#include "base/mem.h"

#include <string.h>

struct machine_shape vmm_default_shape(const struct vmm *v, char *image, char *digest)
{
    const struct config *c = v->cfg;
    return (struct machine_shape){
        .image = image,
        .digest = digest,
        .cores_milli = (uint32_t)c->job_cores_milli,
        .memory_mb = (uint32_t)c->job_memory_mb,
        .pids = (uint32_t)c->job_pids,
        .fsize_bytes = (uint64_t)c->job_fsize_bytes,
        .disk_bytes = (uint64_t)c->job_disk_bytes,
        .network = vmm_has_network(v),
    };
}

bool vmm_has_network(const struct vmm *v)
{
    return !v->driver->loopback_only || !v->driver->loopback_only(v->backend);
}

int vmm_hgetall(const struct vmm *v, const char *suffix, redisReply **ret, struct error *err)
{
    cleanup_free char *key = xasprintf("%s:%s", v->cfg->redis_prefix, suffix);
    const char *argv[] = {"HGETALL", key};
    return rlink_command(v->link, 2, argv, NULL, ret, err);
}

const char *reply_str(const redisReply *r, size_t i)
{
    if (!r || r->type != REDIS_REPLY_ARRAY || i >= r->elements)
        return "";
    const redisReply *e = r->element[i];
    return (e->type == REDIS_REPLY_STRING || e->type == REDIS_REPLY_STATUS) && e->str ? e->str : "";
}

const char *reply_word(const redisReply *r)
{
    return reply_str(r, 0);
}
