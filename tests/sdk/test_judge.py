"""The judge can say no: what is right passes, and each thing that may be wrong is found."""

import socket
import sys
import unittest
from dataclasses import replace
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "interop"))
import judge  # noqa: E402
import processes  # noqa: E402
import tap  # noqa: E402
import verdict  # noqa: E402

HTTP, GRPC = "http/protobuf", "grpc"


def answer(at, status=None, body=b"", retry_after=None):
    return tap.Answer(at, at + 0.01, body, status, retry_after)


def refusal(at):
    return answer(at, 503, b"status", "2")


def full(at, status=200):
    return answer(at, status, tap.FULL[HTTP])


def seen(protocol=HTTP, success=True, seconds=0.1, said=(), answers=(), accepted=0, refused=0, **requests):
    return judge.Seen(protocol, success, seconds, 4, list(said), answers and list(answers), accepted, refused, requests)


TAKEN = seen(answers=[full(0)], accepted=10)
GIVEN_UP = seen(success=False, said=["code: 413"], answers=None, too_large=1)
INSISTED = replace(GIVEN_UP, requests={"too_large": 3}, seconds=4)
LATER = seen(answers=[refusal(0), full(2.1)], accepted=10, refused=10, unavailable=1)
TOO_LONG = seen(success=False, seconds=4, said=["503"], answers=[refusal(0), refusal(2.1)], refused=20, unavailable=2)


class Verdicts(unittest.TestCase):
    def table(self, judged, right, wrong):
        self.assertEqual(judged(right), [])
        for change in wrong:
            with self.subTest(change=change):
                self.assertNotEqual(judged(replace(right, **change)), [], change)

    def test_taken_is_one_full_success_that_nobody_speaks_of(self):
        partial = answer(0, 200, tap.PARTIAL[HTTP])
        self.table(
            lambda one: judge.taken(one, 10),
            TAKEN,
            [
                {"success": False},
                {"said": ["partial success"]},
                {"answers": [full(0), full(1)]},
                {"answers": [partial]},
                {"answers": [full(0, 202)]},
                {"accepted": 9},
                {"refused": 1},
                {"requests": {"invalid": 1}},
            ],
        )

    def test_given_up_is_one_attempt_whose_reason_is_told(self):
        self.table(
            lambda one: judge.given_up(one, "too_large", "too_large"),
            GIVEN_UP,
            [
                {"success": True},
                {"requests": {"too_large": 2}},
                {"requests": {"invalid": 1}},
                {"said": []},
                {"said": ["code: 503"]},
                {"answers": [answer(0, 413), answer(1, 413)]},
                {"answers": [answer(0, 400)]},
                {"accepted": 1},
            ],
        )

    def test_an_sdk_that_insists_is_held_to_its_end_and_noticed_when_it_is_mended(self):
        self.table(
            lambda one: judge.insisted(one, "too_large"),
            INSISTED,
            [
                {"success": True},
                {"requests": {"too_large": 1}},
                {"requests": {"too_large": 2, "invalid": 2}},
                {"requests": {"too_large": 2, "unavailable": 1}},
                {"seconds": 60},
                {"said": []},
                {"accepted": 1},
            ],
        )

    def test_later_is_refused_waited_for_and_taken_once(self):
        self.table(
            lambda one: judge.delivered_later(one, 10),
            LATER,
            [
                {"success": False},
                {"answers": [full(0)], "refused": 0, "requests": {}},
                {"answers": [refusal(0), full(1)]},
                {"answers": [answer(0, 503), full(2.1)]},
                {"answers": [answer(0, 500), full(2.1)]},
                {"answers": [refusal(0), answer(2.1, 200, tap.PARTIAL[HTTP])]},
                {"accepted": 20},
                {"refused": 0},
                {"requests": {"crowded": 1}},
            ],
        )
        self.assertEqual(judge.delivered_later(replace(LATER, answers=[refusal(0), full(1)]), 10, honours=False), [])
        self.assertNotEqual(judge.delivered_later(LATER, 10, honours=False), [], "an SDK that was mended is noticed")

    def test_too_long_ends_by_the_timeout_and_is_told(self):
        self.table(
            lambda one: judge.gave_up_in_time(one, 10),
            TOO_LONG,
            [
                {"success": True},
                {"seconds": 46},
                {"said": []},
                {"accepted": 10},
                {"refused": 10},
                {"requests": {"unavailable": 1}},
                {"answers": [refusal(0), refusal(1)]},
            ],
        )
        self.assertNotEqual(judge.gave_up_in_time(TOO_LONG, 10, retries=False), [], "an SDK that was mended is noticed")

    def test_details_of_a_status_are_looked_at_where_they_are_shown(self):
        for details, refusal, right in (
            ("[]", "too_large", True),
            ("[retry_delay:{seconds:2}]", "too_large", False),
            ("[retry_delay:{seconds:2}]", "unavailable", True),
            ("[retry_delay:{seconds:3}]", "unavailable", False),
            ("[]", "unavailable", False),
        ):
            code = {"too_large": "ResourceExhausted", "unavailable": "Unavailable"}[refusal]
            one = seen(GRPC, success=False, said=[f"it broke [code {code}, details {details}]"])
            self.assertEqual(judge.spoken(one, refusal), right, (refusal, details))


class Arrival(unittest.TestCase):
    def test_all_once_and_as_directly_or_nothing(self):
        there = verdict.Found(b"1", None)
        direct = {("logs", seq): there for seq in (1, 2)}
        for come, is_there, right in (
            (direct, True, True),
            ({("logs", 1): there}, True, False),
            (direct | {("logs", 2): verdict.Found(b"1", None, times=2)}, True, False),
            (direct | {("logs", 2): verdict.Found(b"2", None)}, True, False),
            ({}, False, True),
            (direct, False, False),
        ):
            self.assertEqual(judge.arrived([("logs", 1, 2, is_there)], come, direct) == [], right, (come, is_there))


class Wire(unittest.TestCase):
    def through(self, parser, pieces):
        return b"".join(parser.answered(piece) for piece in pieces)

    def test_answers_over_http_are_seen_also_in_pieces(self):
        text = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 2\r\n\r\nab"
        wire = tap.Tap(*processes.ports(2), HTTP)
        self.addCleanup(wire.close)
        parser = tap.Http(wire)
        parser.asked(b"POST")
        self.assertEqual(self.through(parser, [text[:20], text[20:-1], text[-1:]]), text)
        self.assertEqual([(a.status, a.retry_after, a.body) for a in wire.answers], [(503, "2", b"ab")])

    def test_answers_over_grpc_are_seen_and_a_partial_one_can_take_their_place(self):
        def frame(kind, payload, flags=0):
            return len(payload).to_bytes(3) + bytes([kind, flags, 0, 0, 0, 1]) + payload

        data = frame(tap.DATA, b"\0\0\0\0\2" + tap.FULL[GRPC])
        ok = frame(tap.HEADERS, b"h") + data + frame(tap.HEADERS, b"t", tap.END_STREAM)
        for partial in (False, True):
            wire = tap.Tap(*processes.ports(2), GRPC)
            self.addCleanup(wire.close)
            wire.partial, parser = partial, tap.Grpc(wire)
            parser.asked(b"x" * (tap.PREFACE - 1))
            parser.asked(b"x" + frame(tap.HEADERS, b"h"))
            out = self.through(parser, [ok[:5], ok[5:]])
            self.assertEqual([a.body for a in wire.answers], [(tap.PARTIAL if partial else tap.FULL)[GRPC]])
            self.assertEqual(out == ok, not partial)

    def test_a_wire_that_is_cut_lets_nobody_through_until_it_is_mended(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = processes.ports(1)[0]
            wire = tap.Tap(port, server.getsockname()[1])
            self.addCleanup(wire.close)
            for cut in (False, True, False):
                wire.cut() if cut else wire.mend()
                with socket.create_connection(("127.0.0.1", port)) as client:
                    client.settimeout(2 if cut else 0.2)
                    if cut:
                        self.assertEqual(client.recv(1), b"")
                    else:
                        self.assertRaises(TimeoutError, client.recv, 1)
