/* The protocol of Milonga: who changes a job's state in Redis, in which order, and what a crash, a pause, a lost message
 * or a Redis that lost its past may do in between. Names are those of docs/protocol.md and of the code: an inline is a script
 * (services/<who>/lua/<name>.lua), a proctype is a program. docs/model.md says what stands for what, tests/model/run verifies it.
 *
 * Every option of a `do` below is one step: before and after it anything else may happen, so a process may die, or be
 * paused for any time, at each of them. A script is one step, as Redis makes it. Times are left out: whoever waits for a
 * time may find it over at any moment where it can be, and a worker or leader that was only slow is then judged dead (a `lapse`).
 * What goes wrong is counted (FAULTS), so every execution ends; `the_end` looks at what it ended with. */

/* ---- the instance: -D of tests/model/run ---- */
#ifndef VMMS
#define VMMS 1
#endif
#ifndef DISPATCHERS
#define DISPATCHERS 1
#endif
#ifndef JOBS /* requests of the frontend */
#define JOBS 1
#endif
#ifndef IDS /* the last id there is */
#define IDS JOBS
#endif
#ifndef FAULTS /* in all, of those that the next ones allow */
#define FAULTS 0
#endif
#ifndef CRASHES /* a process dies and is started again, or stays away while another one is there */
#define CRASHES 1
#endif
#ifndef LAPSES /* a leader that was only slow is judged dead */
#define LAPSES 1
#endif
#ifndef VMM_LAPSES /* so is a vmm */
#define VMM_LAPSES LAPSES
#endif
#ifndef MESSAGES /* an assignment's message may arrive, late too, or be lost; 0: it is lost */
#define MESSAGES 1
#endif
#ifndef CUTS /* an answer is lost; a message may always be */
#define CUTS 1
#endif
#ifndef TROUBLES /* an attempt fails for a reason that is not the job's; one waits too long; a receiver is away */
#define TROUBLES 1
#endif
#ifndef LEAVES /* an orderly stop: resign, giveback and unregister */
#define LEAVES 1
#endif
#ifndef RESTARTS /* Redis is started again: with all it had, or as it was at some time before, or empty */
#define RESTARTS 0
#endif
#ifndef POISONED /* this request's job kills its worker whenever it runs; 0: none */
#define POISONED 0
#endif
#ifndef BROKEN_BACKEND /* no attempt comes to a result */
#define BROKEN_BACKEND 0
#endif
#ifndef WORK /* 0: no vmm is there, only what becomes of ids and leaders is looked at */
#define WORK 1
#endif
#ifndef POISON /* prelude.lua */
#define POISON 3
#endif
#ifndef JOB_RETRIES /* job_retries of the configuration */
#define JOB_RETRIES 1
#endif
#ifndef AHEAD /* GENERATION_IDS_AHEAD; as few left are too few */
#define AHEAD 1
#endif

/* ---- the guards: each is needed, tests/model/run takes them away one by one ---- */
#ifndef COMMIT_FENCED /* commit.lua: holds(id, token) */
#define COMMIT_FENCED 1
#endif
#ifndef STEP_FENCED /* step.lua, output.lua: holds(id, token) */
#define STEP_FENCED 1
#endif
#ifndef GIVEBACK_FENCED /* giveback.lua: holds(id, token) */
#define GIVEBACK_FENCED 1
#endif
#ifndef TOKEN_ENDS /* finish(): the token goes with the final state */
#define TOKEN_ENDS 1
#endif
#ifndef TOKEN_IS_NEW /* assign.lua: each attempt has a number of its own */
#define TOKEN_IS_NEW 1
#endif
#ifndef FEEDBACK_FIRST /* report.c, chores.c: into the store, then commit or close */
#define FEEDBACK_FIRST 1
#endif
#ifndef OUTBOX_WITH_COMMIT /* finish(): the callback is queued by the script that finishes */
#define OUTBOX_WITH_COMMIT 1
#endif
#ifndef OUTBOX_DONE_LAST /* outbox.c: the record ends after the receiver's answer */
#define OUTBOX_DONE_LAST 1
#endif
#ifndef OUTBOX_DONE_COMPARED /* outbox_done.lua: only of the feedback that was sent */
#define OUTBOX_DONE_COMPARED 1
#endif
#ifndef YES_LAST /* core_submit.c: HTTP says yes after Redis did */
#define YES_LAST 1
#endif
#ifndef DUP_LOOKED_UP /* accept.lua: the same request again is the same job */
#define DUP_LOOKED_UP 1
#endif
#ifndef LEAD_FENCED /* leads(fence), first in each script of the dispatcher */
#define LEAD_FENCED 1
#endif
#ifndef HOLDER_IN_FENCE /* the fence is epoch@holder */
#define HOLDER_IN_FENCE 1
#endif
#ifndef LEAD_COMPARED /* lead.lua: taken over only if (epoch, beat) are as seen */
#define LEAD_COMPARED 1
#endif
#ifndef LEAD_TAKEN_OVER /* lead.c: a silent leader is judged dead */
#define LEAD_TAKEN_OVER 1
#endif
#ifndef RECLAIM_COMPARED /* reclaim.lua: only if (epoch, beat) are as seen */
#define RECLAIM_COMPARED 1
#endif
#ifndef RECLAIM_SILENT /* reclaim.c: a silent vmm is judged lost */
#define RECLAIM_SILENT 1
#endif
#ifndef REGISTER_REQUEUES /* register.lua: what an earlier life had goes back */
#define REGISTER_REQUEUES 1
#endif
#ifndef UNREGISTER_REQUEUES /* unregister.lua: what it still had goes back */
#define UNREGISTER_REQUEUES 1
#endif
#ifndef RENEW_BRINGS /* renew.lua: "+", what was assigned and is not held */
#define RENEW_BRINGS 1
#endif
#ifndef LOSS_COUNTED /* register.lua, reclaim.lua: k + 1 when work had begun */
#define LOSS_COUNTED 1
#endif
#ifndef LOSS_ONLY_BEGUN /* ... and only then */
#define LOSS_ONLY_BEGUN 1
#endif
#ifndef RETRIES_BOUNDED /* giveback.lua, attempt.c: c + 1, and at job_retries it is over */
#define RETRIES_BOUNDED 1
#endif
#ifndef CLOSE_IF_QUEUED /* close.lua: "moved" */
#define CLOSE_IF_QUEUED 1
#endif
#ifndef NEW_GENERATION /* generation.c: another server, another generation */
#define NEW_GENERATION 1
#endif
#ifndef GENERATION_IN_STORE /* generation.c: higher than the store's record, too */
#define GENERATION_IN_STORE 1
#endif
#ifndef IDS_FROM_STORE /* generation.c: ids go on from the store's high-water mark */
#define IDS_FROM_STORE 1
#endif
#ifndef RECORD_FIRST /* generation.c: into the store, then into Redis */
#define RECORD_FIRST 1
#endif
#ifndef AHEAD_BEGINS /* generation.c: a record that is ahead of Redis makes a new generation, not an error */
#define AHEAD_BEGINS 1
#endif
#ifndef RECORD_GROWS /* generation.c: the highest mark counts, so a late writer takes nothing back */
#define RECORD_GROWS 1
#endif
#ifndef ACCEPT_OF_SERVER /* accept.lua: meta.run_id is the server's */
#define ACCEPT_OF_SERVER 1
#endif
#ifndef ASSIGN_OF_SERVER /* assign.lua: meta.run_id is the server's */
#define ASSIGN_OF_SERVER 1
#endif

/* ---- what has to hold ---- */
#define HAS_TO(property, cond) \
    if \
    :: cond \
    :: else -> printf("VIOLATED: "); printf(#property); printf("\n"); assert(false) \
    fi

/* ---- Redis: what a restart may take back ---- */

/* P:j:ID `s`; "p" stands for preparing, running and collecting. P:delay is the bit `delay`. */
#define Q 1
#define A 2
#define PREP 3
#define F 4
typedef job {
    byte s;
    byte t_gen, t_n;  /* t, the token; 0.0 none */
    byte v;           /* and so P:vmm:V:run */
    byte n, c, k;
    byte fd;          /* digest of the feedback: the attempt's number, or CLOSING */
    bit delay;
    bit outbox;       /* P:outbox, P:ob:ID */
    byte dup;         /* P:dup: the request that it is of */
    byte attempt;     /* ghost: which attempt t was given to */
    byte works;       /* ghost: attempts that began real work */
}

#define UP 1
#define LOST 2
#define DOWN 3
typedef vmm {
    byte state, epoch;
    bit beat;
}

typedef redis {
    byte run_id, gen, id_next, id_limit; /* P:meta */
    byte holder, epoch;                  /* P:lead */
    bit beat;
    job j[IDS + 1];
    vmm v[VMMS + 1];
}

redis r;
#if RESTARTS
redis old; /* what the AOF has */
bit saved, lost_past;
#else
#define lost_past 0
#endif
byte server = 1; /* INFO's run_id */

/* ---- the store, which loses nothing ---- */
byte record_gen, record_high; /* meta record `ids` */
#define CLOSING 31
#define MAX_ATTEMPTS 24
int feedback;                 /* digests that are there, a bit each */
byte closed_feedback;         /* those of `close`, a bit a job */

/* ---- programs ---- */
typedef dispatcher_ {
    bit up;
    byte holder;              /* a uuid a life */
    bit ours;
    byte epoch;
    bit judged;               /* (epoch, beat) were unchanged for leader_lease_ms */
    byte seen_epoch; bit seen_beat;
    byte suspect, vmm_epoch; bit vmm_beat; /* judged silent */
    byte g_step, g_run_id, g_gen, g_next, g_limit; /* generation_check */
    byte closing, c_step;     /* chores' list, of one */
    byte sending, o_step, o_fd; /* outbox */
}
dispatcher_ D[DISPATCHERS + 1];

/* An attempt of a vmm: */
#define HELD 1      /* begin() */
#define PREPARED 2  /* the script `step` has answered */
#define OVER 3      /* a result: to be committed */
#define STORED 4    /* its feedback is in the store */
#define TAKEN 5     /* commit has answered; only if callbacks are queued by hand */
#define GIVEBACK 6
typedef vmm_ {
    bit up;
    bit registered;
    byte epoch;
    byte a_step, a_id, a_gen, a_n, a_c, a_attempt;
    bit a_charge;
    bit a_kill;               /* KILL_FENCED */
    byte m_id, m_gen, m_n, m_c, m_attempt; /* P:v:V, the last message */
}
vmm_ W[VMMS + 1];

/* ---- the frontend ---- */
byte answer[JOBS + 1];   /* of accept, not out yet */
byte said_yes[JOBS + 1]; /* HTTP's answer: the id */
int sent[IDS + 1];       /* callbacks: the digests that arrived, a bit each */

/* ---- ghosts ---- */
byte faults, losses, holders, attempts, high_id;
byte kills[IDS + 1];

#define FAULT(kind) (kind && faults < FAULTS)

#if IDS > 1
#define J2 2
#else
#define J2 1
#endif
#if IDS > 2
#define J3 3
#else
#define J3 1
#endif

/* One number of 1..IDS, 1..VMMS for which a condition holds. */
#if IDS == 1
#define ANY_ID(cond) (cond(1))
#define PICK_ID(cond) id = 1
#elif IDS == 2
#define ANY_ID(cond) (cond(1) || cond(2))
#define PICK_ID(cond) if :: cond(1) -> id = 1 :: cond(2) -> id = 2 fi
#else
#define ANY_ID(cond) (cond(1) || cond(2) || cond(3))
#define PICK_ID(cond) if :: cond(1) -> id = 1 :: cond(2) -> id = 2 :: cond(3) -> id = 3 fi
#endif
#if VMMS == 1
#define ANY_VMM(cond) (cond(1))
#define PICK_VMM(cond) w = 1
#else
#define ANY_VMM(cond) (cond(1) || cond(2))
#define PICK_VMM(cond) if :: cond(1) -> w = 1 :: cond(2) -> w = 2 fi
#endif

/* ---- prelude.lua ---- */

#define holds(id, gen_, n_) ((!TOKEN_ENDS || (r.j[id].s != F && r.j[id].s != Q && r.j[id].s != 0)) && r.j[id].t_gen == gen_ && r.j[id].t_n == n_)
#define room(w) (!(r.j[1].v == w && r.j[1].s != F) && !(IDS > 1 && r.j[J2].v == w && r.j[J2].s != F) && \
                 !(IDS > 2 && r.j[J3].v == w && r.j[J3].s != F))
#define leads(d) (!LEAD_FENCED || (r.holder != 0 && r.epoch == D[d].epoch && (!HOLDER_IN_FENCE || r.holder == D[d].holder)))

inline detach(id)
{
    r.j[id].v = 0; r.j[id].t_gen = 0; r.j[id].t_n = 0; r.j[id].attempt = 0
}

inline requeue(id, due)
{
    detach(id);
    r.j[id].s = Q;
    r.j[id].delay = (due || r.j[id].k >= POISON)
}

inline in_store(id, digest, ret)
{
    if
    :: digest == CLOSING -> ret = (closed_feedback >> id) & 1
    :: else -> ret = (feedback >> digest) & 1
    fi
}

inline finish(id, digest)
{
    HAS_TO(ONE_FINAL_STATE, r.j[id].s != F && r.j[id].s != 0);
    in_store(id, digest, there);
    HAS_TO(FEEDBACK_BEFORE_COMMIT, there);
    there = 0;
    r.j[id].s = F; r.j[id].delay = 0; r.j[id].v = 0; r.j[id].fd = digest;
    if
    :: TOKEN_ENDS -> r.j[id].t_gen = 0; r.j[id].t_n = 0; r.j[id].attempt = 0
    :: else
    fi;
    r.j[id].n = 0; r.j[id].c = 0; r.j[id].k = 0; r.j[id].works = 0; /* nobody looks at them any more */
    r.j[id].outbox = OUTBOX_WITH_COMMIT
}

/* ---- services/api ---- */

inline accept(q)
{
    id = 0;
    if
    :: DUP_LOOKED_UP && r.j[1].dup == q -> id = 1
    :: DUP_LOOKED_UP && IDS > 1 && r.j[J2].dup == q -> id = 2
    :: DUP_LOOKED_UP && IDS > 2 && r.j[J3].dup == q -> id = 3
    :: else
    fi;
    if
    :: id -> skip
    :: else ->
        id = r.id_next;
        r.id_next++;
        printf("api: accept: request %d is job %d\n", q, id);
        HAS_TO(IDS_GROW, id > high_id);
        HAS_TO(ONE_JOB_A_REQUEST, r.j[1].dup != q && (IDS < 2 || r.j[J2].dup != q) && (IDS < 3 || r.j[J3].dup != q));
        high_id = id;
        r.j[id].s = Q;
        r.j[id].dup = q
    fi;
    answer[q] = id;
    id = 0
}

/* the frontend asks for one after the other, which only names them */
#define may_accept(q) ((q == 1 || answer[q - 1] || said_yes[q - 1]) && answer[q] == 0 && said_yes[q] == (YES_LAST -> 0 : 99) && r.id_next < r.id_limit && r.id_next <= IDS && \
                       (!ACCEPT_OF_SERVER || r.run_id == server))

proctype api(byte q)
{
    byte id;

end:
    do
    :: d_step { may_accept(q) -> accept(q) }
    :: d_step { YES_LAST && answer[q] && said_yes[q] == 0 ->
        printf("api: yes, request %d is job %d\n", q, answer[q]); said_yes[q] = answer[q]; answer[q] = 0 }
    :: d_step { !YES_LAST && said_yes[q] == 0 -> printf("api: yes, before Redis knows\n"); said_yes[q] = 99 }
    :: d_step { !YES_LAST && answer[q] -> said_yes[q] = answer[q]; answer[q] = 0 }
    /* api dies, or the connection does: the frontend asks again if it was not told yes */
    :: d_step { FAULT(CUTS) && YES_LAST && answer[q] -> printf("api: the answer is lost\n"); faults++; answer[q] = 0 }
    :: d_step { FAULT(CRASHES) && said_yes[q] == 99 && answer[q] == 0 -> printf("api: dies\n"); faults++; said_yes[q] = 98 }
    od
}

/* ---- services/dispatcher ---- */

#define STALE(d) (r.holder != D[d].holder || r.epoch != D[d].epoch)

/* A script of the dispatcher's answers to whoever leads; a fence that does not hold is `deposed`. */
#define asks(d) (D[d].ours && leads(d))
inline asked(d) { HAS_TO(STALE_LEADER_CHANGES_NOTHING, !STALE(d)) }

#define lives(h) (h != 0 && ((D[1].up && D[1].holder == h) || (DISPATCHERS > 1 && D[DISPATCHERS].up && D[DISPATCHERS].holder == h)))
/* somebody has seen the present (epoch, beat) for too long: a beat makes a difference */
#define doubted (((D[1].judged && D[1].seen_epoch == r.epoch && D[1].seen_beat == r.beat) || \
                 (D[DISPATCHERS].judged && D[DISPATCHERS].seen_epoch == r.epoch && D[DISPATCHERS].seen_beat == r.beat)))
#define take_over(d) (r.holder == 0 || (D[d].judged && (!LEAD_COMPARED || (r.epoch == D[d].seen_epoch && r.beat == D[d].seen_beat))))
#define lead_news(d) (r.holder == D[d].holder -> (!D[d].ours || r.epoch != D[d].epoch || doubted) : (D[d].ours || r.holder == 0 || D[d].judged))

bit beaten; /* ghost: the holder has renewed since it was judged */

inline lead(d)
{
    if
    :: r.holder == D[d].holder ->
        if
        :: r.epoch != D[d].epoch -> r.epoch++; r.beat = 0
        :: else -> r.beat = 1 - r.beat; beaten = 1; printf("dispatcher %d: beats\n", d)
        fi;
        D[d].ours = 1; D[d].epoch = r.epoch
    :: else ->
        if
        :: take_over(d) ->
            HAS_TO(LIVE_LEADER_STAYS, r.holder == 0 || !beaten || !D[d].judged);
            r.holder = D[d].holder; r.epoch++; r.beat = 0; beaten = 0;
            D[d].ours = 1; D[d].epoch = r.epoch;
            printf("dispatcher %d: lead.taken, epoch %d\n", d, r.epoch)
        :: else ->
            printf("dispatcher %d: held by another\n", d); D[d].ours = 0; D[d].epoch = 0
        fi
    fi;
    D[d].judged = 0; D[d].seen_epoch = 0; D[d].seen_beat = 0;
    if :: !D[1].judged && !D[DISPATCHERS].judged -> beaten = 0 :: else fi
}

/* Of a process that ended: what it knew is gone. */
inline dispatcher_ends(d)
{
    D[d].ours = 0; D[d].epoch = 0; D[d].judged = 0; D[d].seen_epoch = 0; D[d].seen_beat = 0;
    D[d].suspect = 0; D[d].vmm_epoch = 0; D[d].vmm_beat = 0;
    D[d].g_step = 0; D[d].g_run_id = 0; D[d].g_gen = 0; D[d].g_next = 0; D[d].g_limit = 0;
    D[d].closing = 0; D[d].c_step = 0; D[d].sending = 0; D[d].o_step = 0; D[d].o_fd = 0
}

inline dispatcher_begins(d)
{
    holders++; D[d].holder = holders; D[d].up = 1
}

/* generation_check(): 1 meta read, 2 the record too and all decided, 3 the record written (or Redis told, if that is first) */
#define ids_short (r.id_limit < r.id_next + AHEAD && r.id_limit <= IDS)
#define g_news(d) (D[d].ours && D[d].g_step == 0 && (r.run_id != server || (ids_short && (AHEAD_BEGINS || record_gen <= r.gen))))

/* What was read of meta is from an earlier step; the server's run_id and the store's record are as they are now. */
inline generation_decide(d)
{
    if
    :: D[d].g_run_id == server && record_gen > D[d].g_gen && !AHEAD_BEGINS -> g_forget(d) /* an error; asking again is one too */
    :: D[d].g_run_id == server && record_gen <= D[d].g_gen -> /* raise_limit() */
        if :: D[d].g_limit < D[d].g_next -> D[d].g_limit = D[d].g_next :: else fi;
        D[d].g_limit = D[d].g_limit + AHEAD;
        if :: D[d].g_limit < record_high -> D[d].g_limit = record_high :: else fi;
        D[d].g_step = 2
    :: else -> /* begin_new() */
        D[d].g_step = 2;
        D[d].g_run_id = server;
        if :: GENERATION_IN_STORE && record_gen > D[d].g_gen -> D[d].g_gen = record_gen :: else fi;
        if :: NEW_GENERATION || D[d].g_gen == 0 -> D[d].g_gen++ :: else fi;
        if :: IDS_FROM_STORE && record_high > D[d].g_next -> D[d].g_next = record_high :: else fi;
        if :: D[d].g_next == 0 -> D[d].g_next = 1 :: else fi;
        D[d].g_limit = D[d].g_next + AHEAD
    fi;
    if :: D[d].g_limit > IDS + 1 -> D[d].g_limit = IDS + 1 :: else fi
}

inline g_forget(d)
{
    D[d].g_step = 0; D[d].g_run_id = 0; D[d].g_gen = 0; D[d].g_next = 0; D[d].g_limit = 0
}

/* A mark is a file of its own, and what counts is the highest of all. */
inline generation_record(d)
{
    printf("dispatcher %d: the store's record: generation %d, ids below %d\n", d, D[d].g_gen, D[d].g_limit);
    if :: !RECORD_GROWS || record_gen < D[d].g_gen -> record_gen = D[d].g_gen :: else fi;
    if :: !RECORD_GROWS || record_high < D[d].g_limit -> record_high = D[d].g_limit :: else fi;
    if :: RECORD_FIRST -> D[d].g_step = 3 :: else -> g_forget(d) fi
}

/* generation.lua */
inline generation(d)
{
    asked(d);
    if
    :: D[d].g_run_id != server -> skip /* stale */
    :: r.run_id == D[d].g_run_id && r.gen == D[d].g_gen && r.gen != 0 ->
        if :: r.id_limit < D[d].g_limit -> r.id_limit = D[d].g_limit :: else fi
    :: else ->
        if
        :: r.gen >= D[d].g_gen && NEW_GENERATION -> skip /* behind */
        :: else ->
            if :: r.id_next < D[d].g_next -> r.id_next = D[d].g_next :: else fi;
            r.run_id = D[d].g_run_id; r.gen = D[d].g_gen; r.id_limit = D[d].g_limit
        fi
    fi;
    printf("dispatcher %d: generation: %d, ids %d to below %d\n", d, r.gen, r.id_next, r.id_limit);
    if :: RECORD_FIRST -> g_forget(d) :: else -> D[d].g_step = 4 fi
}

#define may_assign(id) (r.j[id].s == Q && !r.j[id].delay)
#define takes(w) (r.v[w].state == UP && room(w))
#define assign_news(d) (asks(d) && (!ASSIGN_OF_SERVER || r.run_id == server) && r.gen && ANY_ID(may_assign) && ANY_VMM(takes))

inline assign(d, id, w)
{
    asked(d);
    if :: TOKEN_IS_NEW || r.j[id].n == 0 -> r.j[id].n++ :: else fi;
    attempts++;
    HAS_TO(TRIES_BOUNDED, attempts < MAX_ATTEMPTS && r.j[id].n <= FAULTS + JOB_RETRIES + 1 + (POISONED -> POISON : 0));
    r.j[id].s = A; r.j[id].t_gen = r.gen; r.j[id].t_n = r.j[id].n; r.j[id].v = w; r.j[id].attempt = attempts;
    if :: MESSAGES -> W[w].m_id = id; W[w].m_gen = r.gen; W[w].m_n = r.j[id].n; W[w].m_c = r.j[id].c; W[w].m_attempt = attempts :: else fi;
    printf("dispatcher %d: assign job %d to vmm %d, token %d.%d\n", d, id, w, r.gen, r.j[id].n)
}

/* prelude.lua: what a lost worker had goes back. A job is alone on its worker here, so it is charged, never a suspect. */
#define lose_one(id, w) \
    if \
    :: r.j[id].v == w && (r.j[id].s == A || r.j[id].s == PREP) -> \
        begun = (r.j[id].s != A); /* it waits before the next try, if work had begun */ \
        if :: LOSS_COUNTED && (!LOSS_ONLY_BEGUN || begun) -> r.j[id].k++ :: else fi; \
        HAS_TO(NOT_CHARGED_FOR_NOTHING, r.j[id].k <= losses && r.j[id].k <= r.j[id].works); \
        requeue(id, begun); begun = 0 \
    :: else \
    fi
inline lose(w)
{
    lose_one(1, w);
#if IDS > 1
    lose_one(2, w);
#endif
#if IDS > 2
    lose_one(3, w);
#endif
}
#define leave_one(id, w) if :: r.j[id].v == w && (r.j[id].s == A || r.j[id].s == PREP) -> requeue(id, 0) :: else fi
inline leave_all(w)
{
    leave_one(1, w);
#if IDS > 1
    leave_one(2, w);
#endif
#if IDS > 2
    leave_one(3, w);
#endif
}

/* A vmm that can say nothing, since it is not there or has not registered yet; any other is judged by a lapse. */
#define mute(w) (!W[w].up || !W[w].registered || W[w].epoch != r.v[w].epoch)
#define silent(w) (r.v[w].state == UP && (mute(w) || FAULT(VMM_LAPSES)))
#define reclaim_news(d) (RECLAIM_SILENT && asks(d) && D[d].suspect == 0 && ANY_VMM(silent))

inline reclaim(d)
{
    asked(d);
    w = D[d].suspect;
    if
    :: r.v[w].state == UP && (!RECLAIM_COMPARED || (r.v[w].epoch == D[d].vmm_epoch && r.v[w].beat == D[d].vmm_beat)) ->
        printf("dispatcher %d: reclaim: vmm %d is lost\n", d, w);
        lose(w);
        r.v[w].state = LOST
    :: else -> printf("dispatcher %d: reclaim: vmm %d has spoken\n", d, w)
    fi;
    w = 0;
    D[d].suspect = 0; D[d].vmm_epoch = 0; D[d].vmm_beat = 0
}

#define is_due(id) (r.j[id].s == Q && r.j[id].delay && (r.j[id].k < POISON || D[d].closing == 0))
#define is_aged(id) (r.j[id].s == Q)
#define is_due_callback(id) (r.j[id].outbox && D[d].sending == 0)

inline close(d)
{
    asked(d);
    if
    :: r.j[D[d].closing].s == Q || !CLOSE_IF_QUEUED ->
        printf("dispatcher %d: close job %d\n", d, D[d].closing);
        finish(D[d].closing, CLOSING)
    :: else -> skip /* moved */
    fi
}

proctype dispatcher(byte d)
{
    byte id, w;
    bit there, begun;

end:
    do
    /* lead.c */
    :: d_step { D[d].up && lead_news(d) -> lead(d) }
    :: d_step { LEAD_TAKEN_OVER && D[d].up && !D[d].ours && !D[d].judged && r.holder != 0 && r.holder != D[d].holder &&
                (!lives(r.holder) || FAULT(LAPSES)) ->
        if :: lives(r.holder) -> faults++; printf("dispatcher %d: the leader is silent\n", d) :: else -> printf("dispatcher %d: the leader is gone\n", d) fi;
        D[d].judged = 1; D[d].seen_epoch = r.epoch; D[d].seen_beat = r.beat; beaten = 0 }
    /* any script answered `deposed`: lead_doubt() */
    :: d_step { D[d].ours && !leads(d) -> printf("dispatcher %d: deposed\n", d); D[d].ours = 0;
                D[d].suspect = 0; D[d].vmm_epoch = 0; D[d].vmm_beat = 0; D[d].closing = 0; D[d].c_step = 0 }

    /* ids.c: generation_check() */
    :: d_step { g_news(d) ->
        D[d].g_step = 1; D[d].g_gen = r.gen; D[d].g_next = r.id_next; D[d].g_limit = r.id_limit; D[d].g_run_id = r.run_id }
    :: d_step { D[d].g_step == 1 -> generation_decide(d) }
    :: d_step { RECORD_FIRST && D[d].g_step == 2 -> generation_record(d) }
    :: d_step { (D[d].g_step == 3 || (!RECORD_FIRST && D[d].g_step == 2)) && asks(d) -> generation(d) }
    :: d_step { (D[d].g_step == 3 || (!RECORD_FIRST && D[d].g_step == 2)) && !D[d].ours -> g_forget(d) }
    :: d_step { D[d].g_step == 4 -> generation_record(d) }

    /* duty.c */
    :: atomic { assign_news(d) -> PICK_ID(may_assign); PICK_VMM(takes); assign(d, id, w); id = 0; w = 0 }
    :: atomic { reclaim_news(d) -> PICK_VMM(silent);
        if :: mute(w) -> skip :: else -> faults++; losses++ fi;
        printf("dispatcher %d: vmm %d is silent\n", d, w);
        D[d].suspect = w; D[d].vmm_epoch = r.v[w].epoch; D[d].vmm_beat = r.v[w].beat; w = 0 }
    :: d_step { asks(d) && D[d].suspect -> reclaim(d) }
    :: atomic { asks(d) && ANY_ID(is_due) -> PICK_ID(is_due); asked(d);
        if
        :: r.j[id].k >= POISON -> printf("dispatcher %d: due: job %d is poison\n", d, id); D[d].closing = id; D[d].c_step = 1
        :: else -> r.j[id].delay = 0
        fi;
        id = 0 }
    :: atomic { asks(d) && FAULT(TROUBLES) && D[d].closing == 0 && ANY_ID(is_aged) -> PICK_ID(is_aged);
        printf("dispatcher %d: due: job %d waits for too long\n", d, id); faults++; D[d].closing = id; D[d].c_step = 1; id = 0 }

    /* chores.c: close_job(); 1 told, 2 stored, and closed; the other way round if the guard is gone */
    :: d_step { (D[d].c_step == 1 && FEEDBACK_FIRST) || D[d].c_step == 3 ->
        closed_feedback = closed_feedback | (1 << D[d].closing);
        if :: D[d].c_step == 1 -> D[d].c_step = 2 :: else -> D[d].c_step = 0; D[d].closing = 0 fi }
    :: d_step { asks(d) && (D[d].c_step == 2 || (D[d].c_step == 1 && !FEEDBACK_FIRST)) ->
        close(d);
        if :: FEEDBACK_FIRST -> D[d].c_step = 0; D[d].closing = 0 :: else -> D[d].c_step = 3 fi }

    /* outbox.c: 1 taken (due again after `hold`), 2 the receiver has answered */
    :: atomic { asks(d) && ANY_ID(is_due_callback) -> PICK_ID(is_due_callback); asked(d); D[d].sending = id; D[d].o_step = 1; D[d].o_fd = r.j[id].fd;
        if :: OUTBOX_DONE_LAST -> skip :: else -> r.j[id].outbox = 0 fi; id = 0 }
    :: d_step { D[d].o_step == 1 ->
        printf("dispatcher %d: callback of job %d\n", d, D[d].sending);
        HAS_TO(SAME_CALLBACK, lost_past || sent[D[d].sending] == 0 || sent[D[d].sending] == (1 << D[d].o_fd));
        sent[D[d].sending] = sent[D[d].sending] | (1 << D[d].o_fd);
        D[d].o_step = 2 }
    :: d_step { FAULT(TROUBLES) && D[d].o_step == 1 -> printf("the receiver is away\n"); faults++; D[d].o_step = 0; D[d].sending = 0; D[d].o_fd = 0 }
    /* "sent" is heard from anybody */
    :: d_step { D[d].o_step == 2 -> printf("dispatcher %d: outbox_done job %d\n", d, D[d].sending);
        if :: !OUTBOX_DONE_COMPARED || r.j[D[d].sending].fd == D[d].o_fd -> r.j[D[d].sending].outbox = 0 :: else fi; D[d].o_step = 0; D[d].sending = 0; D[d].o_fd = 0 }

    /* dies */
    :: d_step { FAULT(CRASHES) && D[d].up -> printf("dispatcher %d: dies and is started again\n", d); faults++; dispatcher_ends(d); dispatcher_begins(d) }
    :: d_step { FAULT(CRASHES) && DISPATCHERS > 1 && D[d].up && D[3 - d].up -> printf("dispatcher %d: dies for good\n", d); faults++;
        dispatcher_ends(d); D[d].up = 0; D[d].holder = 0 }
    :: d_step { FAULT(LEAVES) && asks(d) -> printf("dispatcher %d: resign\n", d); faults++; asked(d); r.holder = 0; dispatcher_ends(d); dispatcher_begins(d) }
    od
}

/* ---- services/vmm ---- */

inline attempt_forget(w)
{
    W[w].a_step = 0; W[w].a_id = 0; W[w].a_gen = 0; W[w].a_n = 0; W[w].a_c = 0; W[w].a_attempt = 0; W[w].a_charge = 0; W[w].a_kill = 0
}
inline message_forget(w)
{
    W[w].m_id = 0; W[w].m_gen = 0; W[w].m_n = 0; W[w].m_c = 0; W[w].m_attempt = 0
}
inline vmm_ends(w)
{
    W[w].registered = 0; W[w].epoch = 0;
    attempt_forget(w);
    message_forget(w)
}

#define stale(w) (W[w].epoch != r.v[w].epoch || r.v[w].state != UP)
#define mine(w) (holds(W[w].a_id, W[w].a_gen, W[w].a_n) && r.j[W[w].a_id].v == w)
#define own(id, w) (r.j[id].v == w && (r.j[id].s == A || r.j[id].s == PREP))
#define unheld(id) (own(id, w) && W[w].a_step == 0)
#define judged_silent(d, w) (D[d].suspect == w && D[d].vmm_epoch == r.v[w].epoch && D[d].vmm_beat == r.v[w].beat)
#define feared(w) (judged_silent(1, w) || judged_silent(DISPATCHERS, w))
#define minus(w) (W[w].a_step && !W[w].a_kill && !mine(w))
#define renew_news(w) (W[w].up && W[w].registered && (stale(w) || (RENEW_BRINGS && ANY_ID(unheld)) || minus(w) || feared(w)))

inline register(w)
{
    r.v[w].epoch++;
    printf("vmm %d: register, epoch %d\n", w, r.v[w].epoch);
    if :: REGISTER_REQUEUES -> lose(w) :: else fi;
    r.v[w].state = UP; r.v[w].beat = 0;
    message_forget(w); /* begin() takes none before */
    W[w].registered = 1; W[w].epoch = r.v[w].epoch;
    if :: W[w].a_step -> W[w].a_kill = 1 :: else fi
}

inline begin(w, id, gen_, n_, c_, attempt_)
{
    W[w].a_step = HELD; W[w].a_id = id; W[w].a_gen = gen_; W[w].a_n = n_; W[w].a_c = c_; W[w].a_attempt = attempt_
}

/* A write that carries the token of attempt a. */
#define current(w) (r.j[W[w].a_id].attempt == W[w].a_attempt && r.j[W[w].a_id].s != F && r.j[W[w].a_id].s != 0)
#define lets(fenced, w) (!fenced || holds(W[w].a_id, W[w].a_gen, W[w].a_n))

inline commit(w)
{
    if
    :: lets(COMMIT_FENCED, w) ->
        printf("vmm %d: commit job %d, token %d.%d\n", w, W[w].a_id, W[w].a_gen, W[w].a_n);
        HAS_TO(ONLY_CURRENT_TOKEN, current(w));
        HAS_TO(ONE_FINAL_STATE, r.j[W[w].a_id].fd == 0);
        finish(W[w].a_id, W[w].a_attempt)
    :: else -> printf("vmm %d: commit job %d: fenced\n", w, W[w].a_id)
    fi
}

inline giveback(w, due, charge)
{
    if
    :: lets(GIVEBACK_FENCED, w) ->
        printf("vmm %d: giveback job %d, token %d.%d\n", w, W[w].a_id, W[w].a_gen, W[w].a_n);
        HAS_TO(ONLY_CURRENT_TOKEN, current(w));
        if :: charge && RETRIES_BOUNDED -> r.j[W[w].a_id].c++ :: else fi;
        requeue(W[w].a_id, due)
    :: else -> printf("vmm %d: giveback job %d: fenced\n", w, W[w].a_id)
    fi
}

#define poisoned(w) (POISONED && r.j[W[w].a_id].dup == POISONED)

proctype vmm_main(byte w)
{
    byte id;
    bit there, begun;

end:
    do
    /* agent.c */
    :: d_step { W[w].up && !W[w].registered -> register(w) }
    :: atomic { renew_news(w) ->
        if
        :: stale(w) -> printf("vmm %d: renew: stale\n", w); W[w].registered = 0; W[w].epoch = 0;
            if :: W[w].a_step -> W[w].a_kill = 1 :: else fi
        :: else ->
            r.v[w].beat = 1 - r.v[w].beat;
            if
            :: minus(w) -> printf("vmm %d: renew: job %d is not its own any more\n", w, W[w].a_id); W[w].a_kill = 1
            :: else
            fi;
            if
            :: RENEW_BRINGS && ANY_ID(unheld) -> PICK_ID(unheld);
                printf("vmm %d: renew: job %d is to be done\n", w, id);
                begin(w, id, r.j[id].t_gen, r.j[id].t_n, r.j[id].c, r.j[id].attempt); id = 0
            :: else
            fi
        fi }
    :: d_step { W[w].up && W[w].registered && W[w].m_id && W[w].a_step == 0 ->
        begin(w, W[w].m_id, W[w].m_gen, W[w].m_n, W[w].m_c, W[w].m_attempt); message_forget(w) }
    :: d_step { W[w].m_id -> message_forget(w) }
    :: d_step { W[w].a_step && W[w].a_kill -> printf("vmm %d: drops job %d\n", w, W[w].a_id); attempt_forget(w) }

    /* attempt.c */
    :: d_step { W[w].a_step == HELD ->
        if
        :: lets(STEP_FENCED, w) -> HAS_TO(ONLY_CURRENT_TOKEN, current(w)); r.j[W[w].a_id].s = PREP; r.j[W[w].a_id].works++; W[w].a_step = PREPARED
        :: else -> W[w].a_kill = 1; W[w].a_step = PREPARED
        fi }
    :: d_step { W[w].a_step == PREPARED && !poisoned(w) && !BROKEN_BACKEND -> printf("vmm %d: job %d has run\n", w, W[w].a_id); W[w].a_step = OVER }
    :: d_step { W[w].a_step == PREPARED && !poisoned(w) && (BROKEN_BACKEND || FAULT(TROUBLES)) ->
        if :: BROKEN_BACKEND -> skip :: else -> faults++ fi;
        if
        :: W[w].a_c >= JOB_RETRIES && RETRIES_BOUNDED -> printf("vmm %d: job %d is given up\n", w, W[w].a_id); W[w].a_step = OVER
        :: else -> printf("vmm %d: the attempt at job %d failed\n", w, W[w].a_id); W[w].a_step = GIVEBACK; W[w].a_charge = 1
        fi }
    :: d_step { W[w].a_step == PREPARED && poisoned(w) ->
        printf("vmm %d: job %d kills it\n", w, W[w].a_id);
        losses++; kills[W[w].a_id]++;
        HAS_TO(POISON_SET_APART, kills[W[w].a_id] <= POISON + FAULTS);
        vmm_ends(w) }
    /* report.c */
    :: d_step { W[w].a_step == OVER && FEEDBACK_FIRST -> feedback = feedback | (1 << W[w].a_attempt); W[w].a_step = STORED }
    :: d_step { W[w].a_step == STORED || (W[w].a_step == OVER && !FEEDBACK_FIRST) ->
        commit(w);
        if :: !OUTBOX_WITH_COMMIT -> W[w].a_step = TAKEN :: else -> attempt_forget(w) fi }
    :: d_step { W[w].a_step == STORED && FAULT(CUTS) ->
        printf("the answer will be lost: "); faults++; commit(w) }
    :: d_step { W[w].a_step == TAKEN -> r.j[W[w].a_id].outbox = 1; attempt_forget(w) }
    :: d_step { W[w].a_step == GIVEBACK -> giveback(w, W[w].a_charge, W[w].a_charge); attempt_forget(w) }

    /* dies; is stopped with --hand-back */
    :: d_step { FAULT(CRASHES) && W[w].up -> printf("vmm %d: dies and is started again\n", w); faults++; losses++; vmm_ends(w) }
    :: d_step { FAULT(CRASHES) && VMMS > 1 && W[w].up && W[3 - w].up -> printf("vmm %d: dies for good\n", w); faults++; losses++; vmm_ends(w); W[w].up = 0 }
    :: d_step { FAULT(LEAVES) && W[w].registered && W[w].a_step && !W[w].a_kill && W[w].a_step < OVER ->
        printf("vmm %d: hands back\n", w); faults++; W[w].a_step = GIVEBACK }
    :: d_step { FAULT(LEAVES) && W[w].registered && W[w].a_step == 0 ->
        printf("vmm %d: unregister\n", w); faults++;
        if
        :: W[w].epoch == r.v[w].epoch -> if :: UNREGISTER_REQUEUES -> leave_all(w) :: else fi; r.v[w].state = DOWN
        :: else
        fi;
        vmm_ends(w); W[w].up = (VMMS == 1 || !W[3 - w].up) }
    od
}

/* ---- redis-server ---- */

#if RESTARTS
inline copy_job(to, from, i)
{
    to.j[i].s = from.j[i].s; to.j[i].t_gen = from.j[i].t_gen; to.j[i].t_n = from.j[i].t_n; to.j[i].v = from.j[i].v;
    to.j[i].n = from.j[i].n; to.j[i].c = from.j[i].c; to.j[i].k = from.j[i].k; to.j[i].fd = from.j[i].fd;
    to.j[i].delay = from.j[i].delay; to.j[i].outbox = from.j[i].outbox; to.j[i].dup = from.j[i].dup; to.j[i].attempt = from.j[i].attempt;
    to.j[i].works = from.j[i].works
}
inline copy_vmm(to, from, i)
{
    to.v[i].state = from.v[i].state; to.v[i].epoch = from.v[i].epoch; to.v[i].beat = from.v[i].beat
}
inline copy(to, from)
{
    to.run_id = from.run_id; to.gen = from.gen; to.id_next = from.id_next; to.id_limit = from.id_limit;
    to.holder = from.holder; to.epoch = from.epoch; to.beat = from.beat;
    copy_job(to, from, 1); copy_vmm(to, from, 1);
#if IDS > 1
    copy_job(to, from, 2);
#endif
#if IDS > 2
    copy_job(to, from, 3);
#endif
#if VMMS > 1
    copy_vmm(to, from, 2);
#endif
}
inline wipe_job(i)
{
    r.j[i].s = 0; detach(i); r.j[i].n = 0; r.j[i].c = 0; r.j[i].k = 0; r.j[i].fd = 0; r.j[i].delay = 0; r.j[i].outbox = 0; r.j[i].dup = 0; r.j[i].works = 0
}
inline wipe_vmm(i)
{
    r.v[i].state = 0; r.v[i].epoch = 0; r.v[i].beat = 0
}
inline wipe()
{
    r.run_id = 0; r.gen = 0; r.id_next = 0; r.id_limit = 0; r.holder = 0; r.epoch = 0; r.beat = 0;
    wipe_job(1); wipe_vmm(1);
#if IDS > 1
    wipe_job(2);
#endif
#if IDS > 2
    wipe_job(3);
#endif
#if VMMS > 1
    wipe_vmm(2);
#endif
}
inline restart()
{
    faults++; losses++; server++; beaten = 0;
    answer[1] = 0; answer[JOBS] = 0; /* on their way */
    message_forget(1);
    message_forget(VMMS)
}

proctype redis_server()
{
end:
    do
    :: d_step { RESTARTS && !saved && r.gen -> saved = 1; copy(old, r) }
    :: d_step { FAULT(RESTARTS) && server <= RESTARTS -> printf("redis: starts again\n"); restart() }
    :: d_step { FAULT(RESTARTS) && server <= RESTARTS && saved -> printf("redis: starts again, older\n"); restart(); lost_past = 1; copy(r, old) }
    :: d_step { FAULT(RESTARTS) && server <= RESTARTS -> printf("redis: starts again, empty\n"); restart(); lost_past = 1; wipe() }
    od
}
#endif

/* ---- the end of every execution ---- */

#define kept(q) (said_yes[q] != 0 && (said_yes[q] > IDS -> 0 : (lost_past || (WORK -> r.j[said_yes[q]].s == F : r.j[said_yes[q]].s != 0))))

proctype the_end()
{
    timeout ->
    d_step {
        printf("the end\n");
        HAS_TO(ALL_FINISH, !WORK || r.j[1].s == 0 || r.j[1].s == F);
        HAS_TO(CALLBACK_WITH_COMMIT, !WORK || r.j[1].s == 0 || (sent[1] >> r.j[1].fd) & 1);
#if IDS > 1
        HAS_TO(ALL_FINISH, !WORK || r.j[2].s == 0 || r.j[2].s == F);
        HAS_TO(CALLBACK_WITH_COMMIT, !WORK || r.j[2].s == 0 || (sent[2] >> r.j[2].fd) & 1);
#endif
#if IDS > 2
        HAS_TO(ALL_FINISH, !WORK || r.j[3].s == 0 || r.j[3].s == F);
        HAS_TO(CALLBACK_WITH_COMMIT, !WORK || r.j[3].s == 0 || (sent[3] >> r.j[3].fd) & 1);
#endif
        HAS_TO(YES_IS_KEPT, kept(1) || r.id_next > IDS);
#if JOBS > 1
        HAS_TO(YES_IS_KEPT, kept(2) || r.id_next > IDS);
#endif
    }
}

init
{
    atomic {
        D[1].up = 1; D[1].holder = 1; holders = DISPATCHERS;
        W[1].up = WORK;
#if DISPATCHERS > 1
        D[2].up = 1; D[2].holder = 2;
#endif
#if VMMS > 1
        W[2].up = WORK;
#endif
        run api(1); run dispatcher(1); run vmm_main(1);
#if JOBS > 1
        run api(2);
#endif
#if RESTARTS
        run redis_server();
#endif
#if DISPATCHERS > 1
        run dispatcher(2);
#endif
#if VMMS > 1
        run vmm_main(2);
#endif
        run the_end()
    }
}
