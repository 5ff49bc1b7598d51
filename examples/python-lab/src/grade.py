"""Grades words.py: each problem in a process of its own with a limit of time, then the line of scores."""

import json
import subprocess
import sys

PROBLEMS = {
    "Count": (40, "assert words.count('a b  a') == {'a': 2, 'b': 1}; assert words.count('') == {}"),
    "Longest": (60, "assert words.longest('to be or maybe') == 'maybe'; assert words.longest('') is None"),
}

scores = {}
for name, (points, test) in PROBLEMS.items():
    try:
        done = subprocess.run([sys.executable, "-B", "-c", "import words; " + test], timeout=5,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, errors="replace")
        why = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["died"])[-1]
    except subprocess.TimeoutExpired:
        why = "took more than 5 seconds"
    scores[name] = 0 if why else points
    print(f"{name:8} {'wrong: ' + why if why else 'ok'}")
print(json.dumps({"scores": scores}))
