#!/bin/bash
# Every test of the lab; the suite lab is the part of it that fits into the minutes of tests/run.sh.
WYVERN_LAB=all exec tests/suites/lab.sh
