"""Talk to the kernel: probe, compile and load programs, attach and pin; no rclpy, no BCC here."""
