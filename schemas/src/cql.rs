//! The tables of a CQL keyspace, as the files under `schemas/cql/` state them.

/// Version of the tables that this program creates and understands.
pub const FORMAT: i32 = 1;

const VERSION_1: &str = include_str!("../cql/v1.cql");

/// One table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The statement that creates it.
    pub statement: &'static str,
    /// Its columns in the order of the file.
    pub columns: Vec<Column>,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: &'static str,
    /// Whether all rows of a partition share it.
    pub is_static: bool,
}

/// The tables of [`FORMAT`].
pub fn tables() -> Vec<Table> {
    VERSION_1.split_inclusive(';').filter_map(table).collect()
}

fn table(text: &'static str) -> Option<Table> {
    let statement = &text[text.find("CREATE TABLE ")?..];
    let rest = statement.strip_prefix("CREATE TABLE ")?;
    let (name, rest) = rest.split_once(' ')?;
    let body = rest.trim_start().strip_prefix('(')?;
    let mut columns = Vec::new();
    for line in body.lines() {
        let mut words = line.trim().trim_end_matches(',').split(' ');
        let (Some(name), Some(kind)) = (words.next(), words.next()) else { continue };
        if name == "PRIMARY" {
            break;
        }
        columns.push(Column { name, kind, is_static: words.next() == Some("static") });
    }
    Some(Table { name, statement: statement.trim_end_matches(';'), columns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_of_the_file_is_understood() {
        let tables = tables();
        assert_eq!(tables.len(), VERSION_1.matches("CREATE TABLE").count());
        for table in &tables {
            assert!(table.columns.len() >= 2, "{table:?}");
            assert!(table.statement.contains("PRIMARY KEY"), "{table:?}");
        }
        let journal = tables.iter().find(|table| table.name == "journal").expect("the journal");
        assert_eq!(journal.columns.len(), 9);
        assert_eq!(journal.columns[3], Column { name: "sealed", kind: "boolean", is_static: true });
        assert_eq!(journal.columns[8], Column { name: "body", kind: "blob", is_static: false });
    }
}
