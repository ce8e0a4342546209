"""The steps of benchmarks/gpu.sh (see steps.txt), and what makes one result file of them."""
