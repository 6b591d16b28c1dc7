"""What only a GPU can show: the Triton kernels at real sizes, their results and their speed."""
