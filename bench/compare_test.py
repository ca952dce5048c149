#!/usr/bin/env python3
"""What compare.py says of tables that are made up: compare_test.py, no arguments."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest


def compare(before, after, *arguments):
    """Runs compare.py on one benchmark's times by round: its exit code and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        for side, times in (("before", before), ("after", after)):
            for number, time in enumerate(times, 1):
                one = {"name": "BM_One", "run_type": "iteration", "real_time": time, "time_unit": "us"}
                path = pathlib.Path(folder) / f"{side}-one-{number}.json"
                path.write_text(json.dumps({"benchmarks": [one]}))
        program = pathlib.Path(__file__).with_name("compare.py")
        run = subprocess.run([sys.executable, program, folder, *arguments], capture_output=True, text=True)
        return run.returncode, run.stdout + run.stderr


class Compare(unittest.TestCase):
    def test_equal_times_pass(self):
        self.assertEqual(compare([100] * 5, [100] * 5)[0], 0)

    def test_a_slowdown_within_the_limit_passes(self):
        self.assertEqual(compare([100] * 5, [114] * 5)[0], 0)

    def test_a_slowdown_beyond_the_limit_fails(self):
        code, text = compare([100] * 5, [117] * 5)
        self.assertEqual(code, 1)
        self.assertIn("SLOWER", text)

    def test_the_limit_is_what_was_asked_for(self):
        self.assertEqual(compare([100] * 5, [117] * 5, "--limit", "20")[0], 0)

    def test_one_disturbed_round_does_not_fail(self):
        self.assertEqual(compare([100] * 5, [100, 100, 300, 100, 100])[0], 0)

    def test_spread_is_added_to_the_limit(self):
        self.assertEqual(compare([100] * 5, [80, 100, 117, 140, 160])[0], 0)

    def test_rounds_are_compared_in_pairs(self):
        # The machine became three times slower in the course of the run.
        self.assertEqual(compare([100, 150, 200, 250, 300], [100, 150, 200, 250, 300])[0], 0)

    def test_nothing_to_compare_fails(self):
        self.assertEqual(compare([100], [])[0], 1)


if __name__ == "__main__":
    unittest.main()
