/*
 * How a thread goes to sleep in a dequeue and how it is woken: the protocol between the port's lock, the parking word of
 * each thread and the rings. `make model` has spin try every interleaving of it; `check`, beside this file, lists the
 * situations, and the mutations that must be caught.
 *
 * WHAT IS WHAT
 *
 *   sleepInRing           IOThread: sleep(in:), with Slot: waitForCompletion inside
 *   park                  IOThread: park, awaitWakeUp
 *   release, wakeChain    PortCore: unlockAndWake;  IOThread: wake;  Slot: wakeSleeper
 *   handToNewest, …       Scheduler: insert, handOver, take, withdraw, wait, abandonNext
 *   insert, hand, enlist  PortCore: insert, hand, enlist, redistribute
 *   lease, grant, settle  PortCore+Leases
 *   gather                PortCore+Harvest: gather, with Engine: harvest inside
 *   takePlace             PortCore+Blocking: takePlace
 *   Thread, "dequeue"     PortCore+Dequeue: dequeueSlowly, collect
 *   Thread, "wait"        PortCore+Dequeue: wait
 *   Thread, "user"        what it does before the next one: takeQuickly, dequeueQuickly, a post, block and unblock,
 *                         sleepAlertably, leave, or never come back
 *   Poster, Closer        PortCore: post by a stranger (deliver is the same), releaseReference
 *   Caller                IOThread: queueCall;  PortCore: interrupt
 *   Observer              PortCore+Harvest: observe, tick as far as it takes completions;  PortCore+Blocking: lookAtHolders
 *   Kernel, Clock, Signals    completions of operations in flight, deadlines, system calls that return for no reason
 *
 * WHAT IS CHECKED
 *
 *   At every step, by assertions where they belong:
 *   - A delivery has exactly one wake-up. None comes without a delivery, or is left over when the thread has gone on.
 *   - A waiter is released with a packet, the port's end, a call if it is alertable, or its deadline; nothing else.
 *   - A wake-up is not consumed while a thread sleeps in its ring, or is about to.
 *   - Whenever the port's lock is released, no packet is queued while a place and a waiter are free.
 *   - A packet lets nobody in beyond the limit.
 *   When nothing can move any more (Judge): every thread has gone for good or sleeps, with nothing to be woken for; no lock
 *   is held; no packet or completion waits while a place and a waiter are free; nobody sleeps in a port that was closed; no
 *   call waits for a thread in an alertable wait; what was sent has been received or lies somewhere.
 *
 * WHAT IS ASSUMED
 *
 *   That threads interleave, which is sequential consistency. It holds here because:
 *   - What the port's lock guards is touched under it only, and locking and unlocking acquire and release.
 *   - `parking` is only changed by read-modify-writes, so all agree on the order of its values; each acquires and releases.
 *     A sleeper that finds "woken" therefore has its `delivery` before it, and a waker that finds "in ring s" has the
 *     increment of `sleepers` before it.
 *   - Who sees a wake-up in a ring sees it through the queue's tail, which the kernel stored with release when it came,
 *     after the waker's exchange. So it has that increment before it too, and finds the ring watched unless the sleeper has
 *     left. Nothing relies on the order of changes to different words beyond these chains.
 *   - The kernel compares a futex word under its own lock. In a ring, it remembers how many completions there were when it
 *     has looked at them and before it sleeps, so one that comes in between ends the wait even if another thread consumes
 *     it, and one that was consumed before does not.
 *   A section under the port's lock is one step. Only what it sees of the rings and of `sleepers` can change within it; what
 *   comes later in it might as well come after it, but for one thing: a thread that begins to sleep in a ring while that is
 *   harvested. Therefore a harvest may stop before any wake-up here, as if one had.
 *   An entry goes back to the ring when it is consumed; in the code, at the end of the harvest: longer in the ring, it can
 *   only end a sleep too early. Batches are of one packet. Rings do not overflow. A slot's lock keeps harvesters apart,
 *   which takes no lock here. How long anything takes is not modelled: a deadline passes at any moment, or never.
 */

/* The situation: how often what may happen. */
#ifndef THREADS
#define THREADS 2
#endif
#ifndef SLOTS
#define SLOTS 1
#endif
#ifndef LIMIT
#define LIMIT 1
#endif
#ifndef POSTS       /* packets posted by a stranger */
#define POSTS 0
#endif
#ifndef TIED        /* packets posted by the threads themselves */
#define TIED 0
#endif
#ifndef FLYING      /* operations in flight in the first ring, which nobody leases at first */
#define FLYING 0
#endif
#ifndef FLYING_2    /* the same in the second */
#define FLYING_2 0
#endif
#ifndef TIMEOUTS    /* deadlines that may pass */
#define TIMEOUTS 0
#endif
#ifndef SIGNALS     /* sleeps that may end for no reason */
#define SIGNALS 0
#endif
#ifndef CALLS       /* calls queued to threads, whose waits are alertable or not */
#define CALLS 0
#endif
#ifndef NAPS        /* alertable sleeps outside of the port */
#define NAPS 0
#endif
#ifndef REGIONS     /* times that a thread says that it blocks on something else */
#define REGIONS 0
#endif
#ifndef SEEN        /* times that a thread is seen to */
#define SEEN 0
#endif
#ifndef STAYS       /* threads that do not come back from user code; the monitor looks then */
#define STAYS 0
#endif
#ifndef LEAVES      /* threads that end */
#define LEAVES 0
#endif
#ifndef CLOSES      /* 1: the port's last reference is closed at some moment */
#define CLOSES 0
#endif
#ifndef NO_OPS      /* 1: wake-ups are no-ops in the sleeper's ring, as on kernels before 6.13 */
#define NO_OPS 0
#endif
#ifndef REFUSALS    /* times that the kernel does not take one, for lack of memory */
#define REFUSALS 0
#endif

#define MOST 255
#define ROOM 8      /* entries that a ring holds */

/* Entries of a completion queue. */
#define TAG 0
#define PACKET 1

/* IOThread.Parking */
#define AWAKE 0
#define WOKEN 1
#define PARKED 2
#define IN_RING 3

/* IOThread.Delivery, and why a dequeue ended. */
#define NOTHING 0
#define A_PACKET 1
#define ABANDONED 2
#define A_CALL 3
#define TIMED_OUT 4

/* Where a thread or a slot is named, it is by its number plus one; 0 is none. */

/* Of each thread. */
byte parking[THREADS];
byte boundFor[THREADS];     /* asleep in that slot's ring, or about to enter the kernel for it */
bool inKernel[THREADS];     /* asleep in it */
bool inFutex[THREADS];      /* asleep on the word */
byte slotOf[THREADS];       /* slotReference */
byte delivery[THREADS];
byte nextToWake[THREADS];
bool owed[THREADS];         /* a wake-up is due */
bool counted[THREADS];
bool waits[THREADS];        /* isWaiting */
bool isOut[THREADS];
bool isTimed[THREADS];      /* in a wait whose deadline may pass */
bool expired[THREADS];
byte calls[THREADS];
bool callsLock[THREADS];
bool alertable[THREADS];    /* alertableCore */
bool naps[THREADS];         /* isSleepingAlertably */
bool gone[THREADS];         /* ended, or out for good */

/* Of each slot. */
byte owner[SLOTS];
byte sleepers[SLOTS];
byte length[SLOTS];         /* of the completion queue */
byte entries[SLOTS];        /* one bit each, the oldest lowest */
byte noOps[SLOTS];          /* wake-ups that are queued to the kernel */
byte inFlight[SLOTS];
byte flying[SLOTS];         /* of these, in the kernel */
bool armed[SLOTS];          /* the observer waits for the ring */

/* Of the port. */
byte running, queued, waiting;
byte waiters[THREADS];      /* the newest last */
byte toWake;
bool closed;

byte received, started;

/* What may still happen. */
byte posts = POSTS, tied = TIED, timeouts = TIMEOUTS, signals = SIGNALS, callsLeft = CALLS, napsLeft = NAPS;
byte regions = REGIONS, seen = SEEN, stays = STAYS, leaves = LEAVES, refusals = REFUSALS;

hidden byte i, k, n, got, found;    /* for use within one step */

#define hasCompletions(s) (length[s] > 0)
#define isPacket(s) (length[s] > 0 && (entries[s] & 1) == PACKET)
#define isTag(s) (length[s] > 0 && (entries[s] & 1) == TAG)
#define isWatched(s) (sleepers[s] > 0)
#define leases(t) (slotOf[t] != 0 && owner[slotOf[t] - 1] == t + 1)
#define canRunAnother (running < LIMIT)
#define isNewest(t) (waiting > 0 && waiters[waiting - 1] == t)

inline begin(t) {           /* of a wait with a deadline */
#if TIMEOUTS > 0
    isTimed[t] = true
#else
    skip
#endif
}

inline finish(t) {
#if TIMEOUTS > 0
    isTimed[t] = false;
    expired[t] = false
#else
    skip
#endif
}

/* ---- Leases, under the port's lock ---- */

inline grant(s, t) {
    owner[s] = t + 1;
    slotOf[t] = s + 1
}

/* found: a free slot. */
inline findFree() {
    found = 0;
    for (i : 0 .. SLOTS - 1) {
        if
        :: owner[i] == 0 && (found == 0 || (inFlight[i] > 0 && inFlight[found - 1] == 0)) -> found = i + 1
        :: else
        fi
    }
}

inline leaseFree(t) {
    if
    :: leases(t)
    :: else ->
        findFree();
        if
        :: found != 0 -> grant(found - 1, t)
        :: else
        fi
    fi
}

inline lease(t) {
    if
    :: leases(t)
    :: !leases(t) && slotOf[t] != 0 && owner[slotOf[t] - 1] == 0 -> grant(slotOf[t] - 1, t)
    :: else ->
        findFree();
        for (i : 0 .. SLOTS - 1) {
            if
            :: found == 0 && owner[i] != t + 1 && waits[owner[i] - 1] -> found = i + 1      /* a waiter's */
            :: else
            fi
        }
        if
        :: found != 0 -> grant(found - 1, t)
        :: else
        fi
    fi
}

/* had: what it leased; the caller's. */
inline revoke(t, had) {
    if
    :: leases(t) -> had = slotOf[t]; owner[had - 1] = 0
    :: else
    fi
}

/* Without the lock. */
inline settle(had) {
    if
    :: had != 0 ->
        atomic {
#ifndef NO_SETTLE
            if
            :: owner[had - 1] == 0 && inFlight[had - 1] > 0 -> armed[had - 1] = true
            :: else
            fi;
#endif
            had = 0
        }
    :: else
    fi
}

/* ---- Scheduling, under the port's lock ---- */

inline count(t) {
    if
    :: !counted[t] -> counted[t] = true; running++
    :: else
    fi
}

inline uncount(t) {
    if
    :: counted[t] -> counted[t] = false; running--
    :: else
    fi
}

inline removeWaiter(t) {
    assert(waits[t]);
    found = 0;
    for (i : 0 .. waiting - 1) {
        if
        :: waiters[i] == t -> found = 1
        :: else
        fi;
        if
        :: found -> waiters[i] = (i + 1 < waiting -> waiters[i + 1] : 0)
        :: else
        fi
    }
    assert(found);
    waits[t] = false;
    waiting--
}

inline withdraw(t) {
    removeWaiter(t);
    count(t)
}

inline enlist(t) {
    assert(!owed[t]);
    owed[t] = true;
    nextToWake[t] = toWake;
    toWake = t + 1
}

inline hand(t) {
    delivery[t] = A_PACKET;
    lease(t);
    enlist(t)
}

inline handToNewest() {
    n = waiters[waiting - 1];
    withdraw(n);
    assert(running <= LIMIT);
    hand(n);
    n = 0
}

inline insert() {
    if
    :: canRunAnother && waiting > 0 -> handToNewest()
    :: else -> queued++
    fi
}

inline redistribute() {
    do
    :: canRunAnother && waiting > 0 && queued > 0 -> queued--; handToNewest()
    :: else -> break
    od
}

/* The lock's end. chain: those to be woken; the caller's. */
inline release(chain) {
    assert(closed || !(queued > 0 && canRunAnother && waiting > 0));
    chain = toWake;
    toWake = 0
}

/* ---- Rings ---- */

/* An entry ends the sleep of all whom the kernel has put to sleep in the ring. */
inline complete(s, entry) {
    assert(length[s] < ROOM);
    entries[s] = entries[s] | (entry << length[s]);
    length[s]++;
    for (i : 0 .. THREADS - 1) {
        if
        :: boundFor[i] == s + 1 -> inKernel[i] = false
        :: else
        fi
    }
}

inline advance(s) {
    entries[s] = entries[s] >> 1;
    length[s]--
}

/* What is queued to the kernel enters it. */
inline submit(s) {
#if NO_OPS
    do
    :: noOps[s] > 0 -> noOps[s]--; complete(s, TAG)
    :: else -> break
    od
#else
    skip
#endif
}

/* Under the port's lock: moves completions behind the queued packets. */
inline gather(s, most) {
    got = 0;
    do
    :: got < most && isPacket(s) -> advance(s); inFlight[s]--; queued++; got++
#ifdef CONSUME_TAG
    :: got < most && isTag(s) -> advance(s)
#else
    :: got < most && isTag(s) && !isWatched(s) ->
#ifndef SLEEPERS_LATE
        for (i : 0 .. THREADS - 1) {
            assert(boundFor[i] != s + 1)
        }
#endif
        advance(s)
#endif
#ifdef LIVELOCK
    :: got == most || !hasCompletions(s) || (isTag(s) && isWatched(s)) -> break
#else
    :: got == most || !isPacket(s) -> break
#endif
    od
}

/* ---- Waking, without the port's lock ---- */

/* woke: whose word was changed; before: what it held. The caller's, like chain. */
inline wakeChain(chain, woke, before) {
    do
    :: before == AWAKE && chain != 0 ->
        atomic {
            woke = chain - 1;
            chain = nextToWake[woke];
            nextToWake[woke] = 0;
            assert(owed[woke]);
            owed[woke] = false;
            before = parking[woke];
            parking[woke] = WOKEN;
            assert(before != WOKEN);
            if
            :: before == AWAKE -> woke = 0
            :: else
            fi
        }
    :: before == PARKED ->
        atomic {
#ifndef NO_FUTEX_WAKE
            inFutex[woke] = false;
#endif
            before = AWAKE;
            woke = 0
        }
    :: before >= IN_RING -> wakeSleeper(woke, before)
    :: before == AWAKE && chain == 0 -> break
    od
}

inline wakeSleeper(woke, before) {
#if NO_OPS
    noOps[before - IN_RING]++;                          /* pushed, and then submitted by whoever comes first */
    do
    :: atomic { refusals > 0 && noOps[before - IN_RING] > 0 -> refusals-- }
#ifdef NO_RETRY
        break
#endif
    :: atomic { submit(before - IN_RING) }
        break
    od;
    atomic { before = AWAKE; woke = 0 }
#else
    atomic {
#ifdef RING_OF_NOW
        /* The slot that the thread leases by now, not the one that its word named. */
        if
        :: leases(woke) -> complete(slotOf[woke] - 1, TAG)
        :: else
        fi;
#elif !defined(NO_RING)
        complete(before - IN_RING, TAG);
#endif
        before = AWAKE;
        woke = 0
    }
#endif
}

/* ---- Going to sleep ---- */

#define staysParked(t, forever) (parking[t] == PARKED && ((forever) || !expired[t]))

/* woken: whether a wake-up ended the sleep; the caller's. */
inline park(t, forever, woken) {
    atomic {
        if
#ifdef PARK_BLINDLY
        :: true -> parking[t] = PARKED
#else
        :: parking[t] == AWAKE -> parking[t] = PARKED
        :: else
#endif
        fi
    }
    do
    :: atomic { staysParked(t, forever) -> inFutex[t] = true }
        atomic { !inFutex[t] || (!(forever) && expired[t]) -> inFutex[t] = false }
    :: !staysParked(t, forever) -> break
    od;
    atomic { woken = (parking[t] == WOKEN); parking[t] = AWAKE }
}

inline sleepInRing(t, s, woken) {
#ifndef SLEEPERS_LATE
    sleepers[s]++;
#endif
    if
#ifdef SLEEP_BLINDLY
    :: atomic { true -> parking[t] = IN_RING + s; boundFor[t] = s + 1 }
#else
    :: atomic { parking[t] == AWAKE -> parking[t] = IN_RING + s; boundFor[t] = s + 1 }
#endif
#ifdef SLEEPERS_LATE
        sleepers[s]++;
#endif
        atomic {
            submit(s);
            if
            :: !expired[t] && !hasCompletions(s) -> inKernel[t] = true
            :: else
            fi
        }
        atomic { !inKernel[t] || expired[t] -> inKernel[t] = false; boundFor[t] = 0 }
#ifndef SLEEP_BLINDLY
    :: atomic { parking[t] != AWAKE -> submit(s) }
#ifdef SLEEPERS_LATE
        sleepers[s]++
#endif
#endif
    fi;
    sleepers[s]--;
    atomic { woken = (parking[t] == WOKEN); parking[t] = AWAKE }
}

/* ---- Under the port's lock, by several ---- */

/* After the place and the ring of a thread that blocks were taken. */
inline takePlace() {
    for (k : 0 .. SLOTS - 1) {
        if
        :: !closed && hasCompletions(k) && !isWatched(k) -> gather(k, 1)
        :: else
        fi
    }
#ifndef NO_REDISTRIBUTION_AT_BLOCK
    redistribute()
#endif
}

/* ---- Calls ---- */

/* may: whether it may sleep; the caller's. */
inline becomeAlertable(t, may) {
    atomic {
        !callsLock[t] ->
#ifndef NO_LOOK_AT_CALLS
        may = (calls[t] == 0);
#endif
        alertable[t] = may
    }
}

inline endAlertable(t) {
    atomic { !callsLock[t] -> alertable[t] = false; naps[t] = false }
}

/* ---- Threads that dequeue ---- */

proctype Thread(byte t) {
    byte slot;              /* in whose ring it sleeps */
    byte had, chain, woke, before, end;
    bool woken, alert, may, sleepsOn;

    /* The threads are alike: the one that comes first is called the first. */
    started == t;

dequeue:
    atomic {
        if
        :: started == t -> started++
        :: else
        fi;
        assert(!waits[t] && !owed[t] && nextToWake[t] == 0 && parking[t] == AWAKE && !expired[t]);
        isOut[t] = false;
        if
        :: closed -> end = ABANDONED
        :: else ->
            uncount(t);
            leaseFree(t);
            /* collect: its own ring, then those in which nobody sleeps. */
            if
            :: leases(t) -> gather(slotOf[t] - 1, 1)
            :: else
            fi;
            for (k : 0 .. SLOTS - 1) {
                if
                :: queued == 0 && hasCompletions(k) && !isWatched(k) -> gather(k, 1)
                :: else
                fi
            }
            if
            :: canRunAnother && queued > 0 ->
                queued--;
                count(t);
                received++;
                redistribute();
                end = A_PACKET
            :: !(canRunAnother && queued > 0) && alert && calls[t] > 0 ->
                count(t);
                end = A_CALL
            :: else ->
                waiters[waiting] = t;
                waiting++;
                waits[t] = true;
                delivery[t] = NOTHING;
                begin(t);
                slot = (leases(t) -> slotOf[t] : 0);
                end = NOTHING
            fi
        fi;
        release(chain)
    }
    wakeChain(chain, woke, before);
    if
    :: end != NOTHING -> goto user
    :: else
    fi;

wait:
    may = true;
    if
    :: alert -> becomeAlertable(t, may)
    :: else
    fi;
    if
    :: may && slot != 0 -> sleepInRing(t, slot - 1, woken)
    :: may && slot == 0 -> park(t, false, woken)
    :: !may
    fi;
    if
    :: alert -> endAlertable(t)
    :: else
    fi;
    atomic {
        assert(!woken || delivery[t] != NOTHING);
        if
#ifndef NO_GATHER_IN_WAIT
        :: waits[t] && slot != 0 && hasCompletions(slot - 1) ->
            may = canRunAnother && isNewest(t);
            gather(slot - 1, (may -> 1 : MOST));
            if
            :: may && queued > 0 && canRunAnother ->
                queued--;
                withdraw(t);
                assert(running <= LIMIT);
                received++;
                end = A_PACKET
            :: else
            fi;
#ifndef NO_REDISTRIBUTION_IN_WAIT
            redistribute()
#endif
#endif
        :: else
        fi;
        sleepsOn = false;
        slot = 0;
        if
        :: end != NOTHING -> woken = true                       /* by itself: nobody owes it a wake-up */
#ifdef TIME_OUT_BLINDLY
        :: end == NOTHING && expired[t] ->
            end = TIMED_OUT;
            woken = true;
            if
            :: waits[t] -> withdraw(t)
            :: else
            fi
#endif
        :: else ->
            end = delivery[t];
            delivery[t] = NOTHING;
            if
            :: end == A_PACKET -> received++
            :: end == NOTHING && alert && calls[t] > 0 -> withdraw(t); end = A_CALL; woken = true
            :: end == NOTHING && !(alert && calls[t] > 0) && expired[t] -> withdraw(t); end = TIMED_OUT; woken = true
            :: end == NOTHING && !(alert && calls[t] > 0) && !expired[t] ->
                leaseFree(t);
                slot = (leases(t) -> slotOf[t] : 0);
                sleepsOn = true
            :: else
            fi
        fi;
        if
        :: !sleepsOn ->
            assert(!waits[t]);
            assert(end == A_PACKET || end == ABANDONED || (end == A_CALL && alert) || (end == TIMED_OUT && expired[t]));
            finish(t)
        :: else
        fi;
        release(chain)
    }
    wakeChain(chain, woke, before);
    if
    :: sleepsOn -> goto wait
#ifndef LEAVE_EARLY
    :: !sleepsOn && !woken -> park(t, true, woken)              /* awaitWakeUp */
#endif
    :: else
    fi;

user:
    woken = false;
    if
    :: end == A_CALL -> atomic { !callsLock[t] -> calls[t] = 0 }
    :: end == ABANDONED -> goto leave
    :: else
    fi;
out:
    atomic { end = NOTHING; alert = false; isOut[t] = (SEEN > 0) }
    if
    :: goto dequeue
#if CALLS > 0
    :: alert = true; goto dequeue
#endif
    /* takeQuickly */
    :: atomic { counted[t] && leases(t) && !hasCompletions(slotOf[t] - 1) && queued > 0 && running <= LIMIT && !closed ->
            queued--; received++ }
        goto out
    /* dequeueQuickly. Whether it may is looked at without the lock; here it always may. */
    :: atomic { counted[t] && leases(t) && isPacket(slotOf[t] - 1) ->
            advance(slotOf[t] - 1); inFlight[slotOf[t] - 1]--; received++ }
        goto out
#if TIED > 0
    :: atomic {
            tied > 0 && !closed ->
            tied--;
            if
            :: leases(t) -> gather(slotOf[t] - 1, MOST); redistribute()
            :: else
            fi;
            count(t);                                           /* goesOnUnseen */
            insert();
            release(chain)
        }
        wakeChain(chain, woke, before);
        goto out
#endif
#if REGIONS > 0
    :: atomic {
            regions > 0 ->
            regions--;
            uncount(t);
            revoke(t, had);
            takePlace();
            release(chain)
        }
        wakeChain(chain, woke, before);
        settle(had);
#if NAPS > 0
        if
        :: napsLeft > 0 ->
            atomic { napsLeft--; begin(t) }
            do
            :: calls[t] == 0 && !expired[t] ->
                atomic { !callsLock[t] -> naps[t] = (calls[t] == 0); may = naps[t] }
                if
                :: may -> park(t, false, woken)
                :: else
                fi;
                endAlertable(t);
#ifndef KEEP_AFTER_NAP
                parking[t] = AWAKE
#endif
            :: calls[t] > 0 || expired[t] -> break
            od;
            woken = false;
            atomic { !callsLock[t] -> calls[t] = 0; finish(t) }
        :: true
        fi;
#endif
        atomic {
            if
            :: !closed -> count(t); leaseFree(t)
            :: else
            fi;
            release(chain)
        }
        goto out
#endif
#if STAYS > 0
    :: atomic { stays > 0 -> stays--; gone[t] = true }
        goto ended
#endif
#if LEAVES > 0
    :: atomic { leaves > 0 -> leaves--; isOut[t] = false }
        goto leave
#endif
    fi;

leave:
    atomic {
        uncount(t);
        revoke(t, had);
        slotOf[t] = 0;
#ifndef NO_REDISTRIBUTION_AT_LEAVE
        redistribute();
#endif
        release(chain)
    }
    wakeChain(chain, woke, before);
    settle(had);
    gone[t] = true;

ended:
    skip
}

/* ---- Everybody else ---- */

proctype Poster() {
    byte chain, woke, before;
    do
    :: atomic {
            posts > 0 ->
            posts--;
            if
            :: !closed -> insert()
            :: else
            fi;
            release(chain)
        }
        wakeChain(chain, woke, before)
    :: posts == 0 -> break
    od
}

proctype Closer() {
    byte chain, woke, before, slot, had;
    atomic {
        closed = true;
        do
        :: waiting > 0 ->
            n = waiters[waiting - 1];
            removeWaiter(n);
            delivery[n] = ABANDONED;
            enlist(n);
            n = 0;
#ifdef CLOSE_ONE
            break
#endif
        :: else -> break
        od;
        queued = 0;
        for (i : 0 .. SLOTS - 1) {
            owner[i] = 0
        }
        release(chain)
    }
    wakeChain(chain, woke, before);
    do
    :: slot < SLOTS -> slot++; had = slot; settle(had)
    :: else -> break
    od
}

#define mayTake(s) \
    (STAYS > 0 && owner[s] != 0 && !isWatched(s) && hasCompletions(s) && waiting > 0 && canRunAnother)

/* Its own way of going to sleep is another protocol: observer.pml. */
proctype Observer() {
    byte chain, woke, before, slot, had;
again:
    do
    /* observe: its wait for a ring is over. */
    :: atomic { armed[0] && hasCompletions(0) -> armed[0] = false; slot = 1 } goto observe
#if SLOTS > 1
    :: atomic { armed[1] && hasCompletions(1) -> armed[1] = false; slot = 2 } goto observe
#endif
    /* tick */
    :: mayTake(0) -> slot = 1; goto tick
#if SLOTS > 1
    :: mayTake(1) -> slot = 2; goto tick
#endif
    /* lookAtHolders. A thread that was found blocked twice, and has not run in between: one step. */
    :: atomic {
            seen > 0 && waiting > 0 && !canRunAnother && !closed ->
            seen--;
            if
            :: isOut[0] && counted[0] -> n = 0
            :: isOut[1] && counted[1] -> n = 1
#if THREADS > 2
            :: isOut[2] && counted[2] -> n = 2
#endif
            :: else -> n = MOST
            fi;
            if
            :: n != MOST -> uncount(n); revoke(n, had); takePlace()
            :: else
            fi;
            n = 0;
            release(chain)
        }
        goto settled
    od;

observe:
    atomic {
        if
        :: owner[slot - 1] == 0 -> gather(slot - 1, MOST)
        :: else
        fi;
        if
        :: closed -> queued = 0
        :: else -> redistribute()
        fi;
        had = slot;
        release(chain)
    }
    goto settled;

tick:
    atomic {
        if
        :: !closed -> gather(slot - 1, 1); redistribute()
        :: else
        fi;
        release(chain)
    }

settled:
    wakeChain(chain, woke, before);
    settle(had);
    slot = 0;
    goto again
}

/* queueCall, to any thread. */
proctype Caller() {
    byte chain, woke, before, t;
    do
    :: callsLeft > 0 ->
        atomic {
            callsLeft--;
            if
            :: t = 0
            :: t = 1
#if THREADS > 2
            :: t = 2
#endif
            fi
        }
        atomic { !callsLock[t] -> callsLock[t] = true; calls[t]++ }
        if
        :: alertable[t] ->
#ifdef INTERRUPT_OUTSIDE
            callsLock[t] = false;
#endif
            atomic {
                if
                :: waits[t] -> withdraw(t); delivery[t] = A_CALL; enlist(t)
                :: else
                fi;
                release(chain)
            }
        :: !alertable[t] && naps[t] ->
            atomic {
#ifdef INTERRUPT_OUTSIDE
                callsLock[t] = false;
#endif
                owed[t] = true;
                nextToWake[t] = 0;
                chain = t + 1
            }
        :: else
        fi;
        wakeChain(chain, woke, before);
        callsLock[t] = false;
        t = 0
    :: callsLeft == 0 -> break
    od
}

proctype Kernel() {
    do
    :: atomic { flying[0] > 0 -> flying[0]--; complete(0, PACKET) }
#if SLOTS > 1
    :: atomic { flying[1] > 0 -> flying[1]--; complete(1, PACKET) }
#endif
    od
}

/* Lets deadlines pass, or leaves it at that. */
proctype Clock() {
    do
    :: timeouts > 0 ->
        atomic {
            timeouts--;
            if
            :: isTimed[0] -> expired[0] = true
            :: isTimed[1] -> expired[1] = true
#if THREADS > 2
            :: isTimed[2] -> expired[2] = true
#endif
            :: else
            fi
        }
    :: true -> break
    od
}

/* Ends sleeps for no reason, or leaves it at that. */
proctype Signals() {
    do
    :: signals > 0 ->
        atomic {
            signals--;
            if
            :: inKernel[0] -> inKernel[0] = false
            :: inFutex[0] -> inFutex[0] = false
            :: inKernel[1] -> inKernel[1] = false
            :: inFutex[1] -> inFutex[1] = false
#if THREADS > 2
            :: inKernel[2] -> inKernel[2] = false
            :: inFutex[2] -> inFutex[2] = false
#endif
            :: else
            fi
        }
    :: true -> break
    od
}

proctype Judge() {
    byte lying;
    timeout ->
    atomic {
        assert(toWake == 0);
        for (k : 0 .. SLOTS - 1) {
            assert(flying[k] == 0);
            lying = lying + inFlight[k]
        }
        for (i : 0 .. THREADS - 1) {
            assert(!callsLock[i] && !owed[i]);
            assert(gone[i] || (delivery[i] == NOTHING && (inKernel[i] || inFutex[i])));
            assert(gone[i] || naps[i] || (waits[i] && !closed));
            assert(gone[i] || calls[i] == 0 || !(alertable[i] || naps[i]));
            assert(!waits[i] || !canRunAnother || (queued == 0 && lying == 0))
        }
        assert(closed || received + queued + lying == POSTS + TIED - tied + FLYING + FLYING_2)
    }
}

init {
    atomic {
        for (i : 0 .. SLOTS - 1) {
            flying[i] = (i == 0 -> FLYING : FLYING_2);
            inFlight[i] = flying[i];
            armed[i] = flying[i] > 0
        }
        for (k : 0 .. THREADS - 1) {
            run Thread(k)
        }
#if POSTS > 0
        run Poster();
#endif
#if CLOSES > 0
        run Closer();
#endif
#if CALLS > 0
        run Caller();
#endif
#if TIMEOUTS > 0
        run Clock();
#endif
#if SIGNALS > 0
        run Signals();
#endif
#if FLYING + FLYING_2 > 0
        run Kernel();
#endif
#if FLYING + FLYING_2 + SEEN > 0
        run Observer();
#endif
        run Judge()
    }
}
