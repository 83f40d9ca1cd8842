-- grants.sql: nothing for PUBLIC; and what pg_dump takes along.

REVOKE ALL ON ALL TABLES IN SCHEMA uds FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA uds FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA uds FROM PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('uds.source_types', 'WHERE NOT builtin');
SELECT pg_catalog.pg_extension_config_dump('uds.source_settings', '');
SELECT pg_catalog.pg_extension_config_dump(pg_catalog.pg_get_serial_sequence('uds.source_settings', 'id')::pg_catalog.regclass, '');
SELECT pg_catalog.pg_extension_config_dump('uds.users', '');
SELECT pg_catalog.pg_extension_config_dump(pg_catalog.pg_get_serial_sequence('uds.users', 'id')::pg_catalog.regclass, '');
SELECT pg_catalog.pg_extension_config_dump('uds.departments', '');
SELECT pg_catalog.pg_extension_config_dump(pg_catalog.pg_get_serial_sequence('uds.departments', 'id')::pg_catalog.regclass, '');
SELECT pg_catalog.pg_extension_config_dump('uds.department_members', '');
SELECT pg_catalog.pg_extension_config_dump('uds.records', '');
SELECT pg_catalog.pg_extension_config_dump(pg_catalog.pg_get_serial_sequence('uds.records', 'id')::pg_catalog.regclass, '');
SELECT pg_catalog.pg_extension_config_dump('uds.record_resources', '');
SELECT pg_catalog.pg_extension_config_dump('uds.disabled_rows', '');
SELECT pg_catalog.pg_extension_config_dump('uds.pending_references', '');
SELECT pg_catalog.pg_extension_config_dump('uds.resources', 'WHERE NOT builtin');
SELECT pg_catalog.pg_extension_config_dump('uds.unapplied_records', '');
SELECT pg_catalog.pg_extension_config_dump('uds.api_keys', '');
SELECT pg_catalog.pg_extension_config_dump(pg_catalog.pg_get_serial_sequence('uds.api_keys', 'id')::pg_catalog.regclass, '');
