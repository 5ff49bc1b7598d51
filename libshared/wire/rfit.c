#include "wire/rfit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REDIS_MAJOR_MIN 7

static const char *info_field(const char *info, const char *key)
{
    const char *at = strstr(info, key);

    return at && (at == info || at[-1] == '\n') ? at + strlen(key) : NULL;
}

static int no_text(const redisReply *info, char why[RFIT_WHY])
{
    if (info->type == REDIS_REPLY_STRING)
        return 0;
    snprintf(why, RFIT_WHY, "INFO: %.150s",
             info->type == REDIS_REPLY_ERROR ? info->str : "no text");
    return -1;
}

int rfit_server(const redisReply *info, char ret_run_id[RFIT_RUN_ID + 1], char why[RFIT_WHY])
{
    const char *version, *run_id;

    if (no_text(info, why) < 0)
        return -1;
    version = info_field(info->str, "redis_version:");
    run_id = info_field(info->str, "run_id:");
    if (!version || !run_id || strspn(run_id, "0123456789abcdef") < RFIT_RUN_ID) {
        snprintf(why, RFIT_WHY,
                 "INFO server tells no redis_version and run_id: this is not a Redis server");
        return -1;
    }
    if (strtol(version, NULL, 10) < REDIS_MAJOR_MIN) {
        snprintf(why, RFIT_WHY, "Redis is version %.*s; 7.0 or newer is needed",
                 (int)strcspn(version, "\r\n") % 32, version);
        return -1;
    }
    memcpy(ret_run_id, run_id, RFIT_RUN_ID);
    ret_run_id[RFIT_RUN_ID] = '\0';
    return 0;
}

int rfit_policy(const redisReply *config, char why[RFIT_WHY])
{
    if (config->type != REDIS_REPLY_ARRAY || config->elements < 2 ||
        config->element[1]->type != REDIS_REPLY_STRING ||
        strcmp(config->element[1]->str, "noeviction") == 0)
        return 0;
    snprintf(why, RFIT_WHY,
             "Redis has maxmemory-policy %.32s and would throw away jobs when it is full; set "
             "maxmemory-policy noeviction",
             config->element[1]->str);
    return -1;
}

int rfit_master(const redisReply *info, char why[RFIT_WHY])
{
    const char *role;

    if (no_text(info, why) < 0)
        return -1;
    role = info_field(info->str, "role:");
    if (role && strncmp(role, "master", 6) == 0)
        return 0;
    snprintf(why, RFIT_WHY, "the Redis that the Sentinels name is not a master (yet)");
    return -1;
}
