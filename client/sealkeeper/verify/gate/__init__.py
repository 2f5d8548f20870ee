"""Deploy gates: a policy, evidence about an artifact, and a decision with reasons. No network.

>>> from sealkeeper.verify.gate import Artifact, Context, evaluate, parse_policy
"""
