#!/bin/sh
echo "run.sh was told: $*"
