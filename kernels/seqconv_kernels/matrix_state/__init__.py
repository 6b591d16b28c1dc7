"""Recurrences whose state is a matrix, in C++: what linear attention, SSD and the delta rule share on CPU.

Equation, per head, with a state ``S`` of (d_k, d_v)::

    S' = diag(exp(log_decay[t])) S[t-1]
    S[t] = S' + k[t] u[t]^T,   u[t] = v[t]   or   beta[t] (v[t] - S'^T k[t])
    o[t] = scale * S[t]^T q[t]
"""
