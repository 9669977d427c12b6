# Copy to launch/env.sh, which git ignores, and edit. For a second job, copy to
# another file and name it in LAUNCH_ENV. Read by bash.
# shellcheck shell=bash disable=SC2034

PROJECT=my-project
ZONE=us-west4-a
TPU_NAME=sparse-58m # The queued resource, and the slice in it.

# gcloud compute tpus accelerator-types list --zone=ZONE; here 16 chips of v5e.
ACCELERATOR_TYPE=v5litepod-16
# https://cloud.google.com/tpu/docs/runtimes: v6e v2-alpha-tpuv6e, v5p
# v2-alpha-tpuv5, v5e v2-alpha-tpuv5-lite, v4 and older tpu-ubuntu2204-base.
RUNTIME_VERSION=v2-alpha-tpuv5-lite
CAPACITY=spot # on-demand, spot or reserved
# More flags of `gcloud compute tpus queued-resources create`, such as
# --network=NAME or --service-account=EMAIL.
CREATE_FLAGS=

REVISION=HEAD # Of this repository, sent to the workers as committed.
CONFIG=configs/c4_58m.py
WORKDIR=gs://my-bucket/runs/c4_58m # Outlives the slice, so that runs resume.

# tpu_supervise.sh
POLL_SECONDS=60
# Before the first new attempt; twice as long before each further one.
BACKOFF_SECONDS=30
BACKOFF_MAX_SECONDS=1800
MAX_ATTEMPTS=8
# A job that ran for so long makes the count of attempts start again.
HEALTHY_SECONDS=1800

# gke_job.yaml
IMAGE=us-west4-docker.pkg.dev/my-project/sparse/train:tpu
