/*
 * How the observer goes to sleep while threads are out in user code: between "I leave something behind; do you sleep?" of a
 * thread that departs and "I sleep; has anybody left something behind?" of the observer, each must come in that order on
 * either side (Dekker). And how it leaves a ring whose thread stays away to epoll. See wakeup.pml for the other half.
 *
 * WHAT IS WHAT
 *
 *   noteDeparture     Observer: noteDeparture, ring
 *   Observer          Observer: run
 *   tick              PortCore+Harvest: tick, for a thread's slot; tickAll does all of them
 *   observe           PortCore+Harvest: observe, and Observer: look(at:), which arms the ring again
 *   Thread            a leaseholder: deferred starts, dequeueQuickly, and dequeues that sleep in the ring or are woken before
 *                     they do; in the end it stays out, with whatever it has left
 *   noteEntry         Slot: noteEntry, where the kernel is entered
 *
 * WHAT IS CHECKED
 *
 *   When nothing can move any more (Judge): no entry is unsubmitted and no completion lies in a ring, though no thread comes
 *   back and the observer sleeps; and there is no way to go on for ever (pan -l): with nothing to look after, it sleeps.
 *   Another thread waits all the time, and may run.
 *
 * WHAT IS ASSUMED
 *
 *   That the steps interleave: what a thread published is visible when it looks at `isAsleep`, and the other way round.
 *   - The thread stores what it leaves (the queue's tail with release, `sleepers` and locks by read-modify-write) and lets go
 *     of a lock, an exchange, before it loads `isAsleep`, all sequentially consistent. The observer stores `isAsleep` so, and
 *     takes a lock, an exchange, before it loads the rest. On x86 each exchange is a full barrier. On ARMv8 a load-acquire is
 *     not carried out before an earlier store-release, and later loads not before it; so either side's look comes after its
 *     own word.
 *   - `entries` is counted without read-modify-write: an increment may be lost. Here as well, between load and store.
 *   Rings belong to one thread for good. Ticks come at any moment.
 */

#ifndef THREADS
#define THREADS 2
#endif
#ifndef ROUNDS      /* times that a thread comes back, or defers a start */
#define ROUNDS 2
#endif
#ifndef FLYING      /* operations that each thread's ring has in flight at first */
#define FLYING 0
#endif
#ifndef QUIET       /* ticks without anything before the observer thinks of sleep */
#define QUIET 1
#endif

#define NEVER 255

/* Of each slot and its thread. */
byte unsubmitted[THREADS];
byte flying[THREADS];           /* in the kernel */
byte ready[THREADS];            /* completions in the ring */
bool watched[THREADS];          /* isWatched */
byte entries[THREADS];
byte entriesAtLastTick[THREADS];
byte entriesWhenLeft[THREADS] = NEVER;
bool armed[THREADS];
bool stays[THREADS];

bool isAsleep = true;
bool doorbell;

#define NOTHING 0
#define SOMETHING 1
#define TROUBLE 2

#define inFlight(t) (unsubmitted[t] + flying[t] + ready[t])
#define isLeftAlone(t) (entriesWhenLeft[t] == entries[t])

/* looked: the caller's. */
inline noteDeparture(looked) {
    looked = isAsleep;
    ringIf(looked)
}

inline ringIf(looked) {
    if
    :: looked ->
        atomic {
            looked = isAsleep;
            isAsleep = false
        }
        if
#ifndef NO_DOORBELL
        :: looked -> doorbell = true
#endif
        :: else
        fi;
        looked = false
    :: else
    fi
}

/* The kernel is entered for the ring: it takes what is queued. seen: the caller's. */
inline enter(t, seen) {
    seen = entries[t];
    entries[t] = seen + 1;
    atomic {
        seen = 0;
        flying[t] = flying[t] + unsubmitted[t];
        unsubmitted[t] = 0
    }
}

proctype Thread(byte t) {
    byte rounds, seen;
    bool looked;

    noteDeparture(looked);
    do
    /* A deferred start. */
    :: rounds < ROUNDS ->
        rounds++;
#ifdef LOOK_BEFORE_PUBLISHING
        looked = isAsleep;
        unsubmitted[t]++;
        ringIf(looked)
#else
        unsubmitted[t]++;
        noteDeparture(looked)
#endif
    /* dequeueQuickly: its ring has completions. */
    :: ready[t] > 0 ->
        if
        :: unsubmitted[t] > 0 -> enter(t, seen)
        :: else
        fi;
        ready[t] = 0;
        noteDeparture(looked)
    /* A dequeue that ends with a packet of another's. */
    :: rounds < ROUNDS ->
        rounds++;
        watched[t] = true;
        if
        :: enter(t, seen)
        :: unsubmitted[t] > 0 -> enter(t, seen)
        :: unsubmitted[t] == 0                      /* woken before it slept */
        fi;
        if
        :: ready[t] = 0                             /* gathered on the way */
        :: true                                     /* it was given a packet first */
        fi;
        watched[t] = false;
        noteDeparture(looked)
    :: break
    od;
    stays[t] = true
}

inline leaveAlone(t) {
    entriesWhenLeft[t] = entries[t]
}

inline tick(t) {
    atomic {
        now = entries[t];
        isAway = (entriesAtLastTick[t] == now);
        entriesAtLastTick[t] = now;
        now = 0
    }
    if
    :: unsubmitted[t] > 0 ->
        if
        :: isAway -> enter(t, now); findings = TROUBLE
        :: !isAway && findings == NOTHING -> findings = SOMETHING
        :: else
        fi
    :: else
    fi;
    if
    :: watched[t]
    :: !watched[t] ->
        if
        :: inFlight(t) > 0 ->
            if
#ifdef NEVER_LEFT
            :: findings == NOTHING -> findings = SOMETHING
#endif
            :: !isAway && findings == NOTHING -> findings = SOMETHING
            :: isAway && !isLeftAlone(t) -> leaveAlone(t); armed[t] = true
            :: else
            fi
        :: else
        fi;
        if
        :: atomic { ready[t] > 0 -> ready[t]--; findings = TROUBLE }
        :: else
        fi
    fi
}

inline tickAll() {
    findings = NOTHING;
    tick(0);
#if THREADS > 1
    tick(1);
#endif
    isAway = false
}

inline observe(t) {
    atomic { armed[t] && ready[t] > 0 -> armed[t] = false; isAway = isLeftAlone(t) }
    isAway = isAway && !watched[t];
    if
    :: isAway -> ready[t] = 0
    :: else
    fi;
    if
    :: unsubmitted[t] > 0 -> enter(t, now)
    :: else
    fi;
    if
    :: isAway && inFlight(t) > 0 -> leaveAlone(t); armed[t] = true
#ifdef STAYS_LEFT
    :: isAway && inFlight(t) == 0 -> leaveAlone(t)
    :: !isAway && !watched[t] -> noteDeparture(looked)
    :: !isAway && watched[t]
#else
    :: isAway && inFlight(t) == 0 -> entriesWhenLeft[t] = NEVER
    :: !isAway -> entriesWhenLeft[t] = NEVER;
        if
        :: !watched[t] -> noteDeparture(looked)
        :: else
        fi
#endif
    fi;
    isAway = false
}

proctype Observer() {
    byte findings, now, quiet;
    bool ticks, isAway, looked;
    do
    :: atomic { doorbell -> doorbell = false; ticks = true; quiet = 0 }
    :: observe(0)
#if THREADS > 1
    :: observe(1)
#endif
    :: ticks ->
#ifdef LOOK_BEFORE_DECLARING
        tickAll();
        if
        :: findings == NOTHING -> isAsleep = true; ticks = false
        :: else
        fi
#else
        tickAll();
        if
        :: findings > NOTHING -> quiet = 0
        :: findings == NOTHING && quiet < QUIET - 1 -> quiet++
        :: findings == NOTHING && quiet >= QUIET - 1 ->
            isAsleep = true;
            tickAll();
            if
            :: findings > NOTHING ->
                atomic {
                    if
                    :: isAsleep -> isAsleep = false; quiet = 0
                    :: else
                    fi
                }
            :: else -> ticks = false; quiet = 0
            fi
        fi;
        findings = NOTHING
#endif
    od
}

proctype Kernel() {
    do
    :: atomic { flying[0] > 0 -> flying[0]--; ready[0]++ }
#if THREADS > 1
    :: atomic { flying[1] > 0 -> flying[1]--; ready[1]++ }
#endif
    :: break                                        /* the rest stays pending */
    od
}

proctype Judge() {
    byte t;
    timeout ->
    atomic {
        assert(!doorbell);
        for (t : 0 .. THREADS - 1) {
            assert(stays[t]);
            assert(unsubmitted[t] == 0);
            assert(ready[t] == 0)
        }
    }
}

init {
    byte t;
    atomic {
        for (t : 0 .. THREADS - 1) {
            flying[t] = FLYING;
            run Thread(t)
        }
        run Observer();
        run Kernel();
        run Judge()
    }
}
