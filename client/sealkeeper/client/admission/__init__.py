"""Kubernetes asks before it runs an image: an admission webhook, and a provider of external data for Gatekeeper.

They parse what is asked, find out which gate it is for, and answer in time. Deciding is behind ``decider.Decider``.
"""
