#!/bin/bash
# A container end to end: a few tests of the lab, for those who do not wait for all of it (.ci/run).
WYVERN_LAB=smoke exec tests/suites/lab.sh
