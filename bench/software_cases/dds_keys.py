"""Keys, governance and permissions of DDS Security 1.1, made with openssl."""

from __future__ import annotations

from software_cases.place import Place

#: Of Cyclone DDS, docs/manual/options.md.
SECURITY = """<Security>
<Authentication><Library path="{libraries}/libdds_security_auth.so"
 initFunction="init_authentication" finalizeFunction="finalize_authentication"/>
<IdentityCA>file:{folder}/ca.pem</IdentityCA>
<IdentityCertificate>file:{folder}/identity.pem</IdentityCertificate>
<PrivateKey>file:{folder}/identity.key</PrivateKey></Authentication>
<Cryptographic><Library path="{libraries}/libdds_security_crypto.so"
 initFunction="init_crypto" finalizeFunction="finalize_crypto"/></Cryptographic>
<AccessControl><Library path="{libraries}/libdds_security_ac.so"
 initFunction="init_access_control" finalizeFunction="finalize_access_control"/>
<PermissionsCA>file:{folder}/ca.pem</PermissionsCA>
<Governance>file:{folder}/governance.p7s</Governance>
<Permissions>file:{folder}/permissions.p7s</Permissions></AccessControl></Security>"""

_HEAD = ('<?xml version="1.0" encoding="UTF-8"?>\n'
         '<dds xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">')
_GOVERNANCE = _HEAD + """
<domain_access_rules><domain_rule>
<domains><id_range><min>0</min><max>230</max></id_range></domains>
<allow_unauthenticated_participants>false</allow_unauthenticated_participants>
<enable_join_access_control>true</enable_join_access_control>
<discovery_protection_kind>ENCRYPT</discovery_protection_kind>
<liveliness_protection_kind>ENCRYPT</liveliness_protection_kind>
<rtps_protection_kind>ENCRYPT</rtps_protection_kind>
<topic_access_rules><topic_rule><topic_expression>*</topic_expression>
<enable_discovery_protection>true</enable_discovery_protection>
<enable_liveliness_protection>true</enable_liveliness_protection>
<enable_read_access_control>true</enable_read_access_control>
<enable_write_access_control>true</enable_write_access_control>
<metadata_protection_kind>ENCRYPT</metadata_protection_kind>
<data_protection_kind>ENCRYPT</data_protection_kind>
</topic_rule></topic_access_rules></domain_rule></domain_access_rules></dds>
"""
_PERMISSIONS = _HEAD + """
<permissions><grant name="peer"><subject_name>CN=peer</subject_name>
<validity><not_before>2020-01-01T00:00:00</not_before>
<not_after>2037-12-31T00:00:00</not_after></validity>
<allow_rule><domains><id_range><min>0</min><max>230</max></id_range></domains>
<publish><topics><topic>*</topic></topics><partitions><partition>*</partition></partitions>
</publish>
<subscribe><topics><topic>*</topic></topics><partitions><partition>*</partition></partitions>
</subscribe></allow_rule><default>DENY</default></grant></permissions></dds>
"""


def make_keys(place: Place) -> None:
    """Write ca.pem, identity.pem, identity.key, governance.p7s and permissions.p7s."""
    curve = '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'
    place.run('openssl', 'req', '-x509', *curve, '-subj', '/CN=authority', '-days', 2,
              '-keyout', 'ca.key', '-out', 'ca.pem')
    place.run('openssl', 'req', *curve, '-subj', '/CN=peer', '-keyout', 'identity.key',
              '-out', 'identity.csr')
    place.run('openssl', 'x509', '-req', '-in', 'identity.csr', '-CA', 'ca.pem', '-CAkey',
              'ca.key', '-CAcreateserial', '-days', 2, '-out', 'identity.pem')
    for name, text in (('governance', _GOVERNANCE), ('permissions', _PERMISSIONS)):
        (place.folder / f'{name}.xml').write_text(text)
        place.run('openssl', 'smime', '-sign', '-in', f'{name}.xml', '-text', '-signer',
                  'ca.pem', '-inkey', 'ca.key', '-out', f'{name}.p7s')
