"""The B-spline linear op: definition, CPU paths, planes for the GPU's kernels; see `op.bspline_linear`."""
