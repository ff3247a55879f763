"""Profiles: what makes Cyclone DDS, Fast DDS and zenoh use TCP on ports that rules cover."""
