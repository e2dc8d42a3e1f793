//! The tables of a CQL keyspace, as the files under `schemas/cql/` state them.

/// Version of the tables that this program creates and understands.
pub const FORMAT: i32 = 2;

const VERSION_2: &str = include_str!("../cql/v2.cql");

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
    /// Its place in the primary key.
    pub place: Place,
}

/// What a column is in its table, in the words of `system_schema.columns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Part of the partition's key, counted from 0.
    PartitionKey(i32),
    /// Part of a row's key within its partition, counted from 0, and whether rows descend by it.
    Clustering(i32, bool),
    /// All rows of a partition share it.
    Static,
    /// Any other.
    Regular,
}

impl Place {
    /// Of a row of `system_schema.columns`; `None` for what is not known.
    pub fn of(kind: &str, position: i32, order: &str) -> Option<Self> {
        match kind {
            "partition_key" => Some(Self::PartitionKey(position)),
            "clustering" => Some(Self::Clustering(position, order == "desc")),
            "static" => Some(Self::Static),
            "regular" => Some(Self::Regular),
            _ => None,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PartitionKey(position) => write!(f, " (partition key {position})"),
            Self::Clustering(position, false) => write!(f, " (clustering key {position})"),
            Self::Clustering(position, true) => write!(f, " (clustering key {position}, descending)"),
            Self::Static => f.write_str(" (static)"),
            Self::Regular => Ok(()),
        }
    }
}

/// The tables of [`FORMAT`].
pub fn tables() -> Vec<Table> {
    VERSION_2.split_inclusive(';').filter_map(table).collect()
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
        let place = if words.next() == Some("static") { Place::Static } else { Place::Regular };
        columns.push(Column { name, kind, place });
    }
    place_keys(&mut columns, body)?;
    Some(Table { name, statement: statement.trim_end_matches(';'), columns })
}

/// Gives the columns of the primary key their places: `((a, b), c)`, or `(a, c)` where one column is the partition's.
fn place_keys(columns: &mut [Column], body: &'static str) -> Option<()> {
    let key = body.split_once("PRIMARY KEY (")?.1;
    let (partition, rest) = match key.strip_prefix('(') {
        Some(several) => several.split_once(')')?,
        None => key.split_at(key.find([',', ')'])?),
    };
    let (clustering, options) = rest.split_once(')')?;
    let names = |list: &'static str| list.split(',').map(str::trim).filter(|name| !name.is_empty());
    for (position, name) in (0..).zip(names(partition)) {
        columns.iter_mut().find(|column| column.name == name)?.place = Place::PartitionKey(position);
    }
    for (position, name) in (0..).zip(names(clustering)) {
        let descends = options.contains(&format!("{name} DESC"));
        columns.iter_mut().find(|column| column.name == name)?.place = Place::Clustering(position, descends);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_of_the_file_is_understood() {
        let tables = tables();
        assert_eq!(tables.len(), VERSION_2.matches("CREATE TABLE").count());
        for table in &tables {
            assert!(table.columns.len() >= 2, "{table:?}");
            assert!(table.statement.contains("PRIMARY KEY"), "{table:?}");
        }
        let journal = tables.iter().find(|table| table.name == "journal").expect("the journal");
        assert_eq!(journal.columns.len(), 10);
        assert_eq!(journal.columns[3], Column { name: "sealed", kind: "boolean", place: Place::Static });
        assert_eq!(journal.columns[9], Column { name: "body", kind: "blob", place: Place::Regular });
        let keys = |name: &str| -> Vec<_> {
            let table = tables.iter().find(|table| table.name == name).expect("a table");
            let is_key = |column: &&Column| !matches!(column.place, Place::Static | Place::Regular);
            table.columns.iter().filter(is_key).map(|column| (column.name, column.place)).collect()
        };
        let (first, second) = (Place::PartitionKey(0), Place::PartitionKey(1));
        assert_eq!(keys("journal"), [("shard", first), ("bucket", second), ("seq", Place::Clustering(0, false))]);
        assert_eq!(keys("cluster"), [("id", first)]);
        let (name, number) = (Place::Clustering(0, false), Place::Clustering(1, false));
        assert_eq!(keys("programs"), [("cluster", first), ("name", name), ("number", number)]);
        assert_eq!(keys("history").last(), Some(&("position", Place::Clustering(0, true))));
        assert_eq!(keys("history").len(), 5);
    }
}
