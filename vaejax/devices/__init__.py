"""Devices, processes and what runs on them: meshes, hosts, batches in parts, profiles."""
