"""Quality metrics: one is one file with `METRIC`. A metric's name pins its protocol; another protocol, another name."""
