"""The judge must be able to say no: each fault that the test looks for, made by hand, once."""

import json
import tempfile
import unittest
from pathlib import Path

import verdict
from verdict import Book, Row


def span(seq, text="ß"):
    attributes = [
        {"key": "seq", "value": {"intValue": str(seq)}},
        {"key": "text", "value": {"stringValue": text}},
        {"key": "big", "value": {"intValue": str(2**53 + 1)}},
        {"key": "yes", "value": {"boolValue": True}},
        {"key": "part", "value": {"doubleValue": 0.5}},
        {"key": "list", "value": {"arrayValue": {"values": []}}},
    ]
    more = {"events": [{}], "links": [{}], "status": {"code": 1}}
    return {"traceId": "a1", "spanId": "b2", "parentSpanId": "c3", "attributes": attributes, **more}


def line(*spans, room="attic"):
    resource = {"attributes": [{"key": "room", "value": {"stringValue": room}}]}
    return json.dumps(
        {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "s"}, "spans": list(spans)}]}]},
        ensure_ascii=False,
    )


class Judge(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def write(self, name, *lines):
        path = Path(self.dir.name) / name
        path.write_text("".join(lines), encoding="utf-8")
        return path

    def verdict(self, *collected, acked=(1, 2, 3), made=(1, 2, 3), refused=1, direct=None):
        control = self.write("control.jsonl", *(direct or [line(span(1), span(2)) + "\n", line(span(3)) + "\n"]))
        came = self.write("collected-1.jsonl", *collected)
        row = Row("python", "grpc", "traces")
        there, _ = verdict.read_collector([control])
        arrived, self.strays = verdict.read_collector([came])
        books = {0: Book(set(made), set(acked), refused)}
        self.foreign = verdict.judge([row], books, there, arrived, verdict.held_directly([control]))
        return row

    def test_all_there_in_other_groups_and_order_passes(self):
        row = self.verdict(line(span(3), span(1)) + "\n", line(span(2)) + "\n")
        self.assertEqual((row.verdict, row.delivered, row.lost, row.duplicates), ("PASS", 3, 0, 0), row.reasons)

    def test_a_dropped_line_is_a_loss(self):
        row = self.verdict(line(span(1), span(2)) + "\n")
        self.assertEqual((row.verdict, row.lost, row.reasons), ("FAIL", 1, ["lost 1, the first is 3"]))

    def test_a_torn_last_line_delivers_nothing(self):
        row = self.verdict(line(span(1), span(2)) + "\n", line(span(3))[:-9])
        self.assertEqual((row.verdict, row.lost), ("FAIL", 1))

    def test_a_broken_line_in_the_middle_is_an_error(self):
        with self.assertRaises(verdict.Unreadable):
            self.verdict(line(span(1))[:-9] + "\n", line(span(2)) + "\n")

    def test_twice_is_a_duplicate_and_no_fault(self):
        row = self.verdict(line(span(1), span(2), span(3)) + "\n", line(span(2)) + "\n")
        self.assertEqual((row.verdict, row.duplicates), ("PASS", 1), row.reasons)

    def test_a_changed_value_is_seen_and_named(self):
        row = self.verdict(line(span(1), span(2, text="s"), span(3)) + "\n")
        self.assertEqual((row.verdict, row.altered), ("FAIL", 1))
        self.assertIn('stringValue: directly "ß", through the agent "s"', row.reasons[0])

    def test_a_changed_second_copy_is_seen(self):
        row = self.verdict(line(span(1), span(2), span(3)) + "\n", line(span(2, text="s")) + "\n")
        self.assertEqual((row.verdict, row.altered), ("FAIL", 1))

    def test_a_changed_resource_is_seen(self):
        row = self.verdict(line(span(1), span(2)) + "\n", line(span(3), room="cellar") + "\n")
        self.assertEqual((row.verdict, row.altered), ("FAIL", 1))

    def test_what_nobody_made_is_invented(self):
        row = self.verdict(line(span(1), span(2), span(3), span(4)) + "\n")
        self.assertEqual((row.verdict, row.invented), ("FAIL", 1))

    def test_a_number_of_no_row_and_no_number_at_all_are_told(self):
        nameless = span(3)
        nameless["attributes"] = []
        self.verdict(line(span(1), span(2), span(3), span(verdict.ROW_NUMBERS + 1), nameless) + "\n")
        self.assertEqual((self.foreign, self.strays), (1, 1))

    def test_made_and_never_acknowledged_fails(self):
        self.assertEqual(self.verdict(line(span(1), span(2)) + "\n", acked=(1, 2)).verdict, "FAIL")

    def test_delivered_without_acknowledgement_is_not_invented(self):
        self.assertEqual(self.verdict(line(span(1), span(2), span(3)) + "\n", acked=(1, 2)).invented, 0)

    def test_nothing_at_all_does_not_pass(self):
        self.assertEqual(self.verdict(acked=(), made=()).verdict, "FAIL")

    def test_a_client_never_refused_does_not_pass(self):
        self.assertEqual(self.verdict(line(span(1), span(2), span(3)) + "\n", refused=0).verdict, "FAIL")

    def test_a_client_that_sends_too_little_does_not_pass(self):
        poor = {**span(1), "links": []}
        row = self.verdict(line(poor) + "\n", acked=(1,), made=(1,), direct=[line(poor) + "\n"])
        self.assertEqual((row.verdict, row.reasons), ("FAIL", ["the client sent no links"]))


class Metrics(unittest.TestCase):
    def test_each_data_point_is_a_record_with_its_metric_around_it(self):
        point = {"attributes": [{"key": "seq", "value": {"intValue": "7"}}], "asInt": "1"}
        metric = {"name": "m", "unit": "By", "sum": {"aggregationTemporality": 1, "dataPoints": [point, point]}}
        found = list(verdict.records({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}))
        self.assertEqual([(signal, seq) for signal, seq, _, _ in found], [("metrics", 7), ("metrics", 7)])
        self.assertEqual(found[0][2]["metric"], {"name": "m", "unit": "By", "sum": {"aggregationTemporality": 1}})


class Ledger(unittest.TestCase):
    def test_calls_become_numbers_and_half_a_line_counts_not(self):
        with tempfile.NamedTemporaryFile("w", suffix=".ledger") as file:
            file.write("made logs 5 3\nrefused logs 5 3\nacked logs 5 3\nacked logs 8")
            file.flush()
            book = verdict.read_ledger(file.name)["logs"]
        self.assertEqual((book.made, book.acked, book.refused), ({5, 6, 7}, {5, 6, 7}, 3))

    def test_the_quick_look_finds_the_collectors_own_spelling(self):
        self.assertEqual(verdict.seqs(b'..{"key":"seq","value":{"intValue":"42"}},{"key":"sequel"'), {42})

class AgentsBooks(unittest.TestCase):
    def wrong(self, accepted=3, delivered=3, lost=0, times=(1, 1, 1)):
        text = f"""# TYPE tfo_agent_items_accepted counter
tfo_agent_items_accepted{{exporter="otlphttp",pipeline="traces"}} {accepted}
tfo_agent_items_delivered{{exporter="otlphttp",pipeline="traces"}} {delivered}
tfo_agent_items_lost{{exporter="otlphttp",pipeline="traces",reason="corrupt"}} {lost}
tfo_agent_items_waiting_oldest_seconds{{exporter="otlphttp",pipeline="traces"}} 7
"""
        place = verdict.Place("", 0)
        came = {("traces", n): verdict.Found(b"", place, count) for n, count in enumerate(times)}
        return verdict.against_the_books(verdict.agents_books(text), came)

    def test_what_the_collector_has_is_what_the_books_say(self):
        self.assertEqual(self.wrong(), [])
        # Offered again by a client that got no answer, and arrived twice.
        self.assertEqual(self.wrong(accepted=4, delivered=4, times=(1, 2, 1)), [])

    def test_what_does_not_add_up_or_did_not_arrive_is_told(self):
        self.assertIn("do not add up", self.wrong(accepted=4)[0])
        self.assertIn("not by the books", self.wrong(delivered=2, lost=1)[0])
        self.assertIn("2 arrived", self.wrong(times=(1, 1))[0])
        self.assertIn("4 arrived", self.wrong(times=(1, 1, 1, 1))[0])

