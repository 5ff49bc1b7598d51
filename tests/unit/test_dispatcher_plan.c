/* What the dispatcher decides from what it sees: pure functions, on answers of Redis made by hand.
 */

#include "services/dispatcher/plan.c"
#include "services/dispatcher/reply.c"
#include "services/dispatcher/world.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* ---- replies: "[", "]" and strings ---- */

static redisReply *string(const char *s)
{
    redisReply *r = xcalloc(1, sizeof(*r));

    r->type = REDIS_REPLY_STRING;
    r->str = xstrdup(s);
    r->len = strlen(s);
    return r;
}

static redisReply *parse(char **text)
{
    redisReply *r = xcalloc(1, sizeof(*r));

    r->type = REDIS_REPLY_ARRAY;
    r->element = xcalloc(64, sizeof(*r->element));
    for (char *word; (word = strsep(text, " "));) {
        if (strcmp(word, "]") == 0)
            break;
        if (!*word)
            continue;
        assert_true(r->elements < 64);
        if (strcmp(word, "[") == 0)
            r->element[r->elements++] = parse(text);
        else
            r->element[r->elements++] = string(strcmp(word, "_") == 0 ? "" : word);
    }
    return r;
}

static void drop(redisReply *r)
{
    for (size_t i = 0; i < r->elements; i++)
        drop(r->element[i]);
    free(r->element);
    free(r->str);
    free(r);
}

static void see(struct world *w, const char *vmms, const char *places, bool whole, int64_t now)
{
    char *copy = xasprintf("ok [ run 1 5 100 ] _ [ %s ] [ %s ] [ ] [ ]", vmms, places), *at = copy;
    redisReply *r = parse(&at);

    world_take(w, r, whole, now);
    drop(r);
    free(copy);
}

#define VIEW(name, beat, slots, drain, running, labels, solo, images)                              \
    "[ " name " 1 " beat " up " slots " " drain " 1 " running " " labels " " solo " [ " images     \
    " ] [ ] ] "
#define VMM(name, beat, slots, drain, running, labels, images)                                     \
    VIEW(name, beat, slots, drain, running, labels, "0", images)

static unsigned count(const struct plan *p, uint32_t place, const char *vmm)
{
    unsigned ct = 0;

    for (size_t i = 0; i < p->move_ct; i++)
        if (p->moves[i].place == place && strcmp(p->moves[i].vmm->name, vmm) == 0)
            ct += p->moves[i].count;
    return ct;
}

static struct plan plan; /* large */

static void test_oldest_first_and_no_blocking(void **state)
{
    struct world w;

    (void)state;
    world_init(&w);
    /* place 1 waits longest and fits nowhere; 2 and 3 share the room by age */
    see(&w, VMM("a", "1", "3", "0", "1", "_", "img d1"),
        "[ 1 2 10 100 11 101 ] [ 2 2 12 102 15 105 ] [ 3 2 13 103 14 104 ]", true, 1000);
    world_learn(&w, 1, "other\nd9\n");
    world_learn(&w, 2, "img\nd1\n");
    world_learn(&w, 3, "img\nd1\n");
    plan_make(&w, &plan);
    assert_int_equal(plan.jobs, 2);
    assert_int_equal(count(&plan, 2, "a"), 1);
    assert_int_equal(count(&plan, 3, "a"), 1);
    assert_int_equal(plan.moves[0].place, 2);
    assert_false(plan.unplaced); /* no room is left */
    world_done(&w);
}

static void test_spread_by_free_slots(void **state)
{
    struct world w;

    (void)state;
    world_init(&w);
    see(&w, VMM("a", "1", "4", "0", "0", "_", "img d1") VMM("b", "1", "8", "0", "6", "_", "img d1"),
        "[ 1 9 1 1 2 2 3 3 4 4 ]", true, 1000);
    world_learn(&w, 1, "img\nd1\n");
    plan_make(&w, &plan);
    assert_int_equal(count(&plan, 1, "a"), 3);
    assert_int_equal(count(&plan, 1, "b"), 1);
    assert_true(plan.cut); /* five more wait, and there is room */
    world_done(&w);
}

static void test_who_fits(void **state)
{
    static const struct {
        const char *vmm, *place;
        bool fits;
    } t[] = {
        {VMM("a", "1", "1", "0", "0", "_", "img d1"), "img\nd1\n", true},
        {VMM("a", "1", "1", "0", "0", "_", "img d1"), "img", true},
        {VMM("a", "1", "1", "0", "0", "_", "img d1"), "mig", false},
        {VMM("a", "1", "1", "0", "0", "_", "img d1"), "img\nd2\n", false},
        {VMM("a", "1", "1", "0", "0", "_", "img d1"), "mig\nd2,d1\n", true},
        {VMM("a", "1", "1", "1", "0", "_", "img d1"), "img\nd1\n", false},
        {VMM("a", "1", "1", "0", "1", "_", "img d1"), "img\nd1\n", true},
        {VMM("a", "1", "1", "0", "0", "gpu,x=1", "img d1"), "img\nd1\nx=1", true},
        {VMM("a", "1", "1", "0", "0", ",gpu,,x=1", "img d1"), "img\nd1\ngpu,x=1", true},
        {VMM("a", "1", "1", "0", "0", "gpu", "img d1"), "img\nd1\ngpu,big", false},
        {VMM("a", "1", "1", "0", "0", "_", "img d1"), "img\nd1\n\n1", true},
        {VMM("a", "1", "1", "0", "0", "_", "img d1"), "img\nd1\n\n2", false},
        {"[ a 1 1 lost 1 0 1 0 _ [ img d1 ] [ ] ]", "img\nd1\n", false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        struct world w;

        world_init(&w);
        see(&w, t[i].vmm, "[ 1 1 1 1 ]", true, 1000);
        world_learn(&w, 1, t[i].place);
        assert_int_equal(vmm_fits(w.vmms[0], w.places[0].text), t[i].fits);
        world_done(&w);
    }
}

/* Places 1 and 2 hold jobs that run alone, 3 others. */
static void plan_suspects(struct world *w, const char *vmms, const char *places)
{
    world_init(w);
    see(w, vmms, places, true, 1000);
    world_learn(w, 1, "img\nd1\n\n\nalone");
    world_learn(w, 2, "img\nd1\ngpu\n\nalone");
    world_learn(w, 3, "img\nd1\n");
    plan_make(w, &plan);
}

static void test_a_suspect_gets_an_empty_vmm_for_itself(void **state)
{
    struct world w;

    (void)state;
    plan_suspects(
        &w, VMM("a", "1", "4", "0", "1", "_", "img d1") VMM("b", "1", "4", "0", "0", "_", "img d1"),
        "[ 1 2 10 100 11 101 ] [ 3 9 1 1 2 2 3 3 4 4 5 5 6 6 7 7 8 8 9 9 ]");
    assert_int_equal(count(&plan, 1, "b"), 1);
    assert_int_equal(count(&plan, 3, "b"), 0);
    /* one of two vmms is for suspects: a is not kept for the second */
    assert_int_equal(count(&plan, 1, "a"), 0);
    assert_int_equal(count(&plan, 3, "a"), 3);
    world_done(&w);
}

static void test_the_emptiest_vmm_is_kept_for_a_suspect(void **state)
{
    struct world w;

    (void)state;
    plan_suspects(&w,
                  VMM("a", "1", "4", "0", "3", "_", "img d1")
                      VMM("b", "1", "4", "0", "2", "gpu", "img d1")
                          VMM("c", "1", "4", "0", "3", "_", "img d1")
                              VMM("d", "1", "4", "0", "3", "gpu", "img d1"),
                  "[ 1 1 10 100 ] [ 2 1 12 110 ] [ 3 5 20 200 21 201 22 202 23 203 24 204 ]");
    assert_int_equal(count(&plan, 1, "b"), 0);
    assert_int_equal(count(&plan, 3, "b"), 0); /* kept, and no other beside it */
    assert_int_equal(plan.jobs, 3);
    world_done(&w);
    /* the only one there is, too */
    plan_suspects(&w, VMM("a", "1", "4", "0", "3", "_", "img d1"), "[ 1 1 9 90 ] [ 3 1 1 10 ]");
    assert_int_equal(plan.jobs, 0);
    assert_false(plan.unplaced || plan.cut); /* nothing to do until one ends */
    world_done(&w);
}

static void test_nothing_joins_a_suspect(void **state)
{
    struct world w;

    (void)state;
    plan_suspects(&w, VIEW("a", "1", "4", "0", "1", "_", "1", "img d1"),
                  "[ 1 1 10 100 ] [ 3 2 1 1 2 2 ]");
    assert_int_equal(plan.jobs, 0);
    world_done(&w);
}

static void test_suspects_leave_half_of_the_vmms_to_others(void **state)
{
    struct world w;

    (void)state;
    plan_suspects(&w,
                  VIEW("a", "1", "1", "0", "1", "_", "1", "img d1")
                      VMM("b", "1", "1", "0", "0", "_", "img d1")
                          VMM("c", "1", "1", "0", "0", "_", "img d1")
                              VMM("d", "1", "1", "0", "0", "_", "img d1"),
                  "[ 1 4 1 1 2 2 3 3 4 4 ] [ 3 4 5 5 6 6 7 7 8 8 ]");
    assert_int_equal(plan.jobs, 3);
    assert_int_equal(count(&plan, 1, "b"), 1);
    assert_int_equal(count(&plan, 3, "c") + count(&plan, 3, "d"), 2);
    world_done(&w);
}

static void test_since_and_gap(void **state)
{
    struct world w;

    (void)state;
    world_init(&w);
    see(&w, VMM("a", "1", "1", "0", "0", "_", "img d1"), "", true, 1000);
    see(&w, VMM("a", "1", "1", "0", "0", "_", "_ _"), "", false, 1500);
    assert_int_equal(w.vmms[0]->since, 1000);
    assert_int_equal(w.vmms[0]->images.ct, 1); /* a light observation leaves them */
    world_gap(&w, 1600);
    assert_int_equal(w.vmms[0]->since, 1600);
    see(&w, VMM("a", "2", "1", "0", "0", "_", ""), "", false, 1700);
    assert_int_equal(w.vmms[0]->since, 1700);
    see(&w, "", "", true, 1800);
    assert_int_equal(w.vmm_ct, 0);
    world_done(&w);
}

static void test_places_are_asked_for_once(void **state)
{
    struct world w;
    uint32_t unknown[4];

    (void)state;
    world_init(&w);
    see(&w, "", "[ 7 1 ] [ 3 1 ]", true, 1);
    assert_int_equal(world_unknown(&w, unknown, 4), 2);
    world_learn(&w, 7, "a\n\n");
    assert_int_equal(world_unknown(&w, unknown, 4), 1);
    assert_int_equal(unknown[0], 3);
    world_learn(&w, 3, "b\n\n");
    see(&w, "", "[ 7 1 ] [ 3 1 ]", true, 2);
    assert_int_equal(world_unknown(&w, unknown, 4), 0);
    assert_string_equal(w.places[0].text->image, "a");
    plan_make(&w, &plan);
    assert_int_equal(plan.jobs, 0);
    world_done(&w);
}

static void test_garbage_is_nothing(void **state)
{
    struct world w;
    char text[] = "ok x y z [ [ ] 5 [ a ] ] [ [ q ] 7 ] [ a ] ", *at = text;
    redisReply *r = parse(&at);

    (void)state;
    world_init(&w);
    world_take(&w, r, true, 1);
    plan_make(&w, &plan);
    assert_int_equal(plan.jobs, 0);
    drop(r);
    world_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oldest_first_and_no_blocking),
        cmocka_unit_test(test_spread_by_free_slots),
        cmocka_unit_test(test_who_fits),
        cmocka_unit_test(test_a_suspect_gets_an_empty_vmm_for_itself),
        cmocka_unit_test(test_the_emptiest_vmm_is_kept_for_a_suspect),
        cmocka_unit_test(test_nothing_joins_a_suspect),
        cmocka_unit_test(test_suspects_leave_half_of_the_vmms_to_others),
        cmocka_unit_test(test_since_and_gap),
        cmocka_unit_test(test_places_are_asked_for_once),
        cmocka_unit_test(test_garbage_is_nothing),
    };

    return cmocka_run_group_tests_name("dispatcher_plan", tests, NULL, NULL);
}
