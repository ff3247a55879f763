"""Which traffic is enrolled: the rule table and the port arithmetic of RTPS."""
