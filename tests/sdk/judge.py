"""The core: what was seen of one export, and what is wrong with it. Plain data and plain functions.

Each judgement returns what is wrong, in words; nothing is good.
"""

import re
from dataclasses import dataclass, field

import tap

# What the agent asks for (`COME_BACK`), and what a timer may be early or a note late.
COME_BACK_S = 2
EARLY_S = 0.1
# What a busy machine may be late with a timeout.
LATE_S = 5

# How each refusal is spelled: over HTTP its status, over gRPC its code as Python, Go, Node.js and Java write it.
SPELLED = {
    "unauthenticated": ("401", "UNAUTHENTICATED|Unauthenticated|code 16"),
    "not served": ("404", "UNIMPLEMENTED|Unimplemented|code 12"),
    "media": ("415", None),
    "too_large": ("413", "RESOURCE_EXHAUSTED|ResourceExhausted|code 8"),
    "unavailable": ("503", "UNAVAILABLE|Unavailable|code 14"),
}


@dataclass
class Seen:
    """One export: what the SDK said, what stood on the wire, what the agent counted."""

    protocol: str
    success: bool
    seconds: float
    timeout: float
    said: list[str]
    # On the wire; None: the client spoke to the agent without a tap.
    answers: list[tap.Answer] | None
    accepted: int
    refused: int
    # Requests refused, by reason.
    requests: dict[str, int] = field(default_factory=dict)

    def attempts(self):
        return sum(self.requests.values()) if self.answers is None else len(self.answers)

    def statuses(self):
        return [answer.status for answer in self.answers or () if answer.status is not None]


def wrong(*pairs):
    """The texts of those that do not hold."""
    return [text for holds, text in pairs if not holds]


def spoken(seen, refusal):
    """Whether the SDK tells of this refusal."""
    http, grpc = SPELLED[refusal]
    words = grpc if seen.protocol == "grpc" else rf"\b{http}\b"
    return any(re.search(words, line) for line in seen.said) and detailed(seen, refusal)


def detailed(seen, refusal):
    """Go's SDK shows a status with its details: RetryInfo stands where a retry helps, and nowhere else."""
    right = f"[retry_delay:{{seconds:{COME_BACK_S}}}]]" if refusal == "unavailable" else "[]]"
    return all(line.endswith(right) for line in seen.said if ", details " in line)


def taken(seen, count):
    """Taken whole, at once, and nothing said about it: the answer is a full success."""
    bodies = [answer.body for answer in seen.answers]
    return wrong(
        (seen.success, "the SDK says FAILURE"),
        (not seen.said, f"the SDK has something to say: {seen.said[:1]}"),
        (len(bodies) == 1, f"{len(bodies)} answers to one export"),
        (all(body == tap.FULL[seen.protocol] for body in bodies), f"no full success: {bodies[:1]}"),
        (set(seen.statuses()) <= {200}, f"HTTP {seen.statuses()}"),
        (seen.accepted == count, f"the agent accepted {seen.accepted} of {count}"),
        (seen.refused == 0 and not seen.requests, f"the agent refused {seen.refused}, {seen.requests}"),
    )


def given_up(seen, refusal, counted):
    """Refused for good: the SDK asks once, tells why, nothing was taken. `counted`: the agent's reason, if any."""
    http = SPELLED[refusal][0]
    return wrong(
        (not seen.success, "the SDK says SUCCESS"),
        (seen.attempts() == 1, f"{seen.attempts()} attempts, where the first answer was final"),
        (spoken(seen, refusal), f"the SDK does not tell that it was {refusal}: {seen.said[:1]}"),
        (set(seen.statuses()) <= {int(http)}, f"HTTP {seen.statuses()}"),
        (seen.accepted == 0, f"the agent accepted {seen.accepted}"),
        (seen.requests == ({counted: 1} if counted else {}), f"the agent counted {seen.requests}"),
    )


def insisted(seen, counted):
    """Refused for good, and yet asked again until the timeout: an SDK that does not follow OTLP, held to its end."""
    times, cut_off = seen.requests.get(counted, 0), seen.requests.get("invalid", 0)
    return wrong(
        (not seen.success, "the SDK says SUCCESS"),
        (times > 1, f"asked {times} times: if the SDK follows OTLP now, this is no deviation any more"),
        (seen.seconds < seen.timeout + LATE_S, f"gave up after {seen.seconds} s, its timeout is {seen.timeout} s"),
        (bool(seen.said), "the SDK loses it without a word"),
        (seen.accepted == 0, f"the agent accepted {seen.accepted}"),
        # Its timeout may fall into the last attempt, of which half a message is left.
        (seen.attempts() == times + cut_off and cut_off <= 1, f"the agent counted {seen.requests}"),
    )


def waits(seen):
    """From each refusal to the next attempt, seconds."""
    return [later.asked - earlier.answered for earlier, later in zip(seen.answers, seen.answers[1:])]


def politely(seen, honours):
    """The refusals were retryable and carried a delay, and the SDK waited for it, if that is known of it."""
    refusals = [answer for answer in seen.answers if answer.status in (None, 503)]
    early = [f"{wait:.2f}" for wait in waits(seen) if wait < COME_BACK_S - EARLY_S]
    return wrong(
        (all(a.status is None or a.retry_after == str(COME_BACK_S) for a in refusals), "a 503 without Retry-After"),
        (not honours or not early, f"came back after {early} s, asked for {COME_BACK_S} s"),
        (honours or early, "waited as long as asked for: the SDK follows OTLP now, so this is no deviation any more"),
    )


def delivered_later(seen, count, honours=True):
    """Refused for now, once at least; then taken, once."""
    attempts, statuses = seen.attempts(), seen.statuses()
    return wrong(
        (seen.success, f"the SDK says FAILURE: {seen.said[-1:]}"),
        (attempts > 1, f"{attempts} attempts: it was never refused"),
        (not statuses or statuses == [503] * (attempts - 1) + [200], f"HTTP {statuses}"),
        (seen.answers[-1:] and seen.answers[-1].body == tap.FULL[seen.protocol], "the last answer is no full success"),
        (seen.accepted == count, f"the agent accepted {seen.accepted} of {count}"),
        (seen.refused == count * (attempts - 1), f"the agent refused {seen.refused} in {attempts - 1} refusals"),
        (seen.requests == {"unavailable": attempts - 1}, f"the agent counted {seen.requests}"),
    ) + (politely(seen, honours) if attempts > 1 else [])


def gave_up_in_time(seen, count, honours=True, retries=True):
    """Refused for now until the timeout: the SDK ends by it and tells, and nothing was taken."""
    attempts = seen.attempts()
    return wrong(
        (not seen.success, "the SDK says SUCCESS"),
        (attempts >= 1 if retries else attempts == 1, f"{attempts} attempts within {seen.timeout} s"),
        (seen.seconds < seen.timeout + LATE_S, f"gave up after {seen.seconds} s, its timeout is {seen.timeout} s"),
        (set(seen.statuses()) <= {503}, f"HTTP {seen.statuses()}"),
        (bool(seen.said), "the SDK loses it without a word"),
        (detailed(seen, "unavailable"), f"UNAVAILABLE without its delay: {seen.said}"),
        (seen.accepted == 0, f"the agent accepted {seen.accepted}"),
        (seen.refused == count * attempts, f"the agent refused {seen.refused} in {attempts} refusals"),
        (seen.requests == {"unavailable": attempts}, f"the agent counted {seen.requests}"),
    ) + (politely(seen, honours) if attempts > 1 else [])


def arrived(want, come, direct):
    """Of each batch: all of it at the far end, once, as it looks directly; or nothing. Keys are (signal, number)."""
    faults = []
    for signal, first, count, there in want:
        keys = [(signal, seq) for seq in range(first, first + count)]
        found = [come[key] for key in keys if key in come]
        twice = [one for one in found if one.times > 1]
        faults += wrong(
            (len(found) == (count if there else 0), f"{signal}: {len(found)} of {count if there else 0} arrived"),
            (not twice, f"{signal}: {len(twice)} arrived more than once"),
        )
        if direct is not None and there:
            looks = {key: direct[key].digest for key in keys if key in direct}
            other = [key for key in keys if key in come and come[key].digest != looks.get(key)]
            faults += wrong((not other, f"{signal}: {len(other)} look otherwise than directly"))
    return faults
