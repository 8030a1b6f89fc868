"""The client side of etcd, against a real etcd."""
